use std::rc::Rc;

use super::*;
use crate::http::Scheme;
use crate::http2::RequestHead;

type Fields = Vec<(String, String)>;

/// The fields of `block`, if it can be decoded.
fn decode(decoder: &mut Decoder, block: &[u8]) -> Option<Fields> {
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    decoder
        .decode(block, |name, value| {
            fields.push((text(name), text(value)));
            true
        })
        .ok()?;
    Some(fields)
}

fn owned(fields: &[(&str, &str)]) -> Fields {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    fields.iter().map(own).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    digits.chunks(2).map(|two| two[0] << 4 | two[1]).collect()
}

#[test]
fn blocks_of_one_connection_are_decoded() {
    // RFC 7541, appendices C.5 and C.6: the same three answers, plain and in the Huffman code, with a
    // table of 256 bytes, so that entries are thrown out.
    let dates = [
        "Mon, 21 Oct 2013 20:13:21 GMT",
        "Mon, 21 Oct 2013 20:13:22 GMT",
    ];
    let location = ("location", "https://www.example.com");
    let private = ("cache-control", "private");
    let cookie = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    let expect = [
        owned(&[(":status", "302"), private, ("date", dates[0]), location]),
        owned(&[(":status", "307"), private, ("date", dates[0]), location]),
        owned(&[
            (":status", "200"),
            private,
            ("date", dates[1]),
            location,
            ("content-encoding", "gzip"),
            ("set-cookie", cookie),
        ]),
    ];
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a \
         3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 \
         677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 \
         553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
    ];
    let coded = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e \
         919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 \
         821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed \
         4ee5 b106 3d50 07",
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::default();
        // The table's size, which the appendix takes for granted.
        assert_eq!(decode(&mut decoder, &[0x3f, 0xe1, 0x01]), Some(Vec::new()));
        for (block, expect) in blocks.into_iter().zip(&expect) {
            assert_eq!(decode(&mut decoder, &bytes(block)).as_ref(), Some(expect));
        }
        // The fourth entry was thrown out by the last ones.
        assert_eq!(decode(&mut decoder, &[0xc1]), None);
    }
}

#[test]
fn entries_come_and_go_for_ever() {
    let mut decoder = Decoder::default();
    for round in 0..2000 {
        let (name, value) = (format!("name-{round}"), "v".repeat(round % 150));
        let mut block = vec![mark::INSERTED, name.len() as u8];
        block.extend(name.as_bytes());
        match value.len() {
            length @ 0..0x7f => block.push(length as u8),
            length => block.extend([0x7f, (length - 0x7f) as u8]),
        }
        block.extend(value.as_bytes());
        // It, again, from the table; and one of eight entries ago.
        block.push(mark::INDEXED | 62);
        block.push(mark::INDEXED | 70);
        let again = (name, value);
        let mut expect = vec![again.clone(), again];
        if let Some(before) = usize::checked_sub(round, 8) {
            expect.push((format!("name-{before}"), "v".repeat(before % 150)));
        } else {
            block.pop();
        }
        assert_eq!(decode(&mut decoder, &block), Some(expect), "{round}");
    }
    // Larger than the table: empties it.
    let mut block = vec![mark::INSERTED, 1, b'a', 0x7f, 0x81, 0x1f];
    block.extend([b'x'; 4096]);
    assert!(decode(&mut decoder, &block).is_some());
    assert_eq!(decode(&mut decoder, &[mark::INDEXED | 62]), None);
}

#[test]
fn what_breaks_the_rules_is_refused() {
    let check = |what: &str, block: &[u8]| {
        assert_eq!(decode(&mut Decoder::default(), block), None, "{what}");
    };
    check("entry 0", &[0x80]);
    check("an entry that is not there", &[0xbe]);
    check("a name that is not there", &[0x7e, 0]);
    check(
        "a number without an end",
        &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80],
    );
    check(
        "a number beyond all bounds",
        &[0xff, 0xff, 0xff, 0xff, 0x7f],
    );
    check("half a number", &[0xff]);
    check("a name longer than the block", &[0x00, 3, b'a']);
    check("a value longer than the block", &[0x00, 1, b'a', 3, b'b']);
    check("no value", &[0x00, 1, b'a']);
    check("a table beyond what was allowed", &[0x3f, 0xe2, 0x1f]);
    check("a new size behind a field", &[0x88, 0x20]);
    check(
        "the end of string",
        &[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0],
    );
    let refused = Decoder::default().decode(&[0x88, 0x88], |_, _| false);
    assert!(refused.is_err(), "the caller has refused the first field");
}

fn head(text: &str) -> Rc<RequestHead> {
    let text = format!("POST /v1/chat HTTP/1.1\r\nhost: api.test\r\n{text}\r\n");
    Rc::new(RequestHead::parse(text.as_bytes(), Scheme::Https).expect("a head"))
}

/// What a receiver makes of the next block, and the block's length.
fn pass(
    encoder: &mut Encoder,
    decoder: &mut Decoder,
    head: &Rc<RequestHead>,
    once: bool,
) -> (Fields, usize) {
    let mut block = b"before".to_vec();
    encoder.encode(head, Some(b"17"), once, &mut block);
    let fields = decode(decoder, &block[6..]).expect("a good block");
    (fields, block.len() - 6)
}

fn fields_of(head: &RequestHead) -> Fields {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let fields = head.fields().map(|(name, value)| (text(name), text(value)));
    fields
        .chain([("content-length".to_owned(), "17".to_owned())])
        .collect()
}

#[test]
fn heads_arrive_and_shrink_to_a_few_bytes() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    let heads = [
        head("authorization: Bearer k\r\ncontent-type: application/json\r\n"),
        head("authorization: Bearer k\r\nx-team: search\r\n"),
    ];
    let mut lengths = Vec::new();
    for round in 0..4 {
        for head in &heads {
            let (fields, length) = pass(&mut encoder, &mut decoder, head, false);
            assert_eq!(fields, fields_of(head), "{round}");
            lengths.push(length);
        }
    }
    // A byte a field, five of content-length.
    assert_eq!(lengths[2..], [11, 11, 11, 11, 11, 11]);
    let rare = head("x-rare: 1\r\n");
    for _ in 0..2 {
        let (fields, length) = pass(&mut encoder, &mut decoder, &rare, true);
        assert_eq!(fields, fields_of(&rare));
        assert!(length > 30, "it went into no table: {length}");
    }
    assert_eq!(pass(&mut encoder, &mut decoder, &heads[0], false).1, 11);
}

#[test]
fn a_full_table_stays_as_it_is() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    for number in 0..200 {
        let head = head(&format!(
            "x-number: {number}\r\nx-long: {}\r\n",
            "y".repeat(number)
        ));
        for _ in 0..3 {
            let (fields, _) = pass(&mut encoder, &mut decoder, &head, false);
            assert_eq!(fields, fields_of(&head));
        }
    }
    assert!(encoder.entries.len() < 200);
}

#[test]
fn a_receiver_may_change_its_table() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    let head = head("x-team: search\r\n");
    for size in [4096, 60, 0, 1 << 20, 4096] {
        encoder.resize(size);
        for _ in 0..3 {
            let (fields, _) = pass(&mut encoder, &mut decoder, &head, false);
            assert_eq!(fields, fields_of(&head), "{size}");
        }
        assert!(encoder.size <= size);
    }
}
