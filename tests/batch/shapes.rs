//! The shapes of a line, and which bytes reach the endpoint for each.

use crate::support::{Place, batch_args, bodies, mock, run, runtimes};

#[test]
fn a_bare_body_goes_out_as_it_is() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        let line = r#"{ "messages":[{"role":"user","content":"h\u00e9 \/"}], "seed":12345678901234567890123 ,"model":"m"}"#;
        place.input(&[line]);
        run(&place, &batch_args(&mock, runtime, &[])).expect(0);
        assert_eq!(bodies(&mock), [line]);
        assert_eq!(place.records("out.jsonl").len(), 1);
        assert_eq!(place.listing(), ["in.jsonl", "out.jsonl"]);
    }
}
