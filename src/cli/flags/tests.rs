use super::*;
use crate::config::{Config, ConfigError, Settings, load_settings};

/// `blaze-uring` with `arguments` and `variables`, both as `a b c` and `NAME=value …`.
fn try_parse(arguments: &str, variables: &[(&str, &str)]) -> Result<Cli, clap::Error> {
    let words = std::iter::once("blaze-uring").chain(arguments.split_whitespace());
    let variables = variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    try_parse_from(words.map(OsString::from), variables)
}

fn overrides(arguments: &str, variables: &[(&str, &str)]) -> Overrides {
    try_parse(arguments, variables)
        .expect("a command line")
        .batch
        .overrides()
}

/// The whole way: arguments, variables and a file at `blaze.json`.
fn settings(
    arguments: &str,
    variables: &[(&str, &str)],
    file: Option<&str>,
) -> Result<Settings, ConfigError> {
    let environment = |name: &str| {
        variables
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned())
    };
    let path = std::path::Path::new("blaze.json");
    let file = file.map(str::to_owned);
    let overrides = overrides(arguments, variables);
    load_settings(
        file.is_some().then_some(path),
        file,
        &overrides,
        &environment,
    )
}

const ENDPOINT: &str = "--endpoint-url http://127.0.0.1:1/v1";

#[test]
fn clap_agrees_with_the_definition() {
    command().debug_assert();
}

#[test]
fn every_flag_reads_its_spellings() {
    let all = overrides(
        "-i in -o out -e err -r 0 -w 7 -t 100ms -a 2 --endpoint-url http://h --model m --cores 3 \
         --runtime tokio --order completion --format openai --overwrite --fresh --salvage --retry-errors \
         --max-outage 2m --max-cost 1.5 --max-line-bytes 1KiB --max-response-bytes 9 --ca-file c \
         --grace 0 --durability power --metrics-addr localhost:9 -vv --json-logs --no-progress --dry-run",
        &[],
    );
    let flag = |name: &str| Origin::Flag(name.to_owned());
    assert_eq!(
        all.timeout,
        Some(Given {
            value: Duration::from_millis(100),
            origin: flag("--timeout")
        })
    );
    assert_eq!(
        all.rate,
        Some(Given {
            value: Rate::Unlimited,
            origin: flag("--rate")
        })
    );
    assert_eq!(
        all.max_attempts,
        Some(Given {
            value: 2,
            origin: flag("--max-attempts")
        })
    );
    let Overrides {
        input,
        output,
        errors,
        rate: _,
        workers,
        timeout: _,
        max_attempts: _,
        endpoint_url,
        model,
        cores,
        runtime,
        order,
        format,
        overwrite,
        fresh,
        salvage,
        retry_errors,
        max_outage,
        max_cost,
        max_line_bytes,
        max_response_bytes,
        ca_file,
        grace,
        durability,
        metrics_addr,
        verbose,
        json_logs,
        no_progress,
        dry_run,
    } = all;
    fn value<T>(given: Option<Given<T>>) -> T {
        given.expect("given").value
    }
    assert_eq!(value(input), InputSource::File("in".into()));
    assert_eq!(value(output), OutputTarget::File("out".into()));
    assert_eq!(value(errors), PathBuf::from("err"));
    assert_eq!(value(workers), Workers::Most(7));
    assert_eq!(value(endpoint_url).expose(), "http://h");
    assert_eq!(value(model), "m");
    assert_eq!(value(cores), 3);
    assert_eq!(value(runtime), RuntimeChoice::Tokio);
    assert_eq!(value(order), Order::Completion);
    assert_eq!(value(format), Format::OpenAi);
    assert_eq!(value(max_outage), Duration::from_secs(120));
    assert_eq!(value(max_cost), 1.5);
    assert_eq!(value(max_line_bytes), 1024);
    assert_eq!(value(max_response_bytes), 9);
    assert_eq!(value(ca_file), PathBuf::from("c"));
    assert_eq!(value(grace), Duration::ZERO);
    assert_eq!(value(durability), Durability::Power);
    assert_eq!(value(metrics_addr).to_string(), "127.0.0.1:9");
    assert_eq!(value(verbose), 2);
    for flag in [
        overwrite,
        fresh,
        salvage,
        retry_errors,
        json_logs,
        no_progress,
        dry_run,
    ] {
        assert!(value(flag));
    }
}

#[test]
fn seeds_flags_and_dashes_are_understood() {
    let seed = overrides(
        "--requests_filepath a --save_filepath b --max_requests_per_second 2.5 --max_attempts 4",
        &[],
    );
    assert_eq!(
        seed.input.expect("given").value,
        InputSource::File("a".into())
    );
    assert_eq!(
        seed.output.expect("given").value,
        OutputTarget::File("b".into())
    );
    assert_eq!(seed.rate.expect("given").value, Rate::PerSecond(2.5));
    assert_eq!(seed.max_attempts.expect("given").value, 4);
    let streams = overrides("-i - -o -", &[]);
    assert_eq!(streams.input.expect("given").value, InputSource::Stdin);
    assert_eq!(streams.output.expect("given").value, OutputTarget::Stdout);
    assert_eq!(overrides("", &[]), Overrides::default());
}

#[test]
fn every_flag_has_its_variable() {
    for argument in command().get_arguments() {
        let Some(long) = argument.get_long() else {
            continue;
        };
        let value = match long {
            "rate" | "workers" | "timeout" | "max-attempts" | "cores" | "max-outage"
            | "max-cost" | "max-line-bytes" | "max-response-bytes" | "grace" => "3",
            "runtime" | "format" => "auto",
            "order" => "input",
            "durability" => "power",
            "metrics-addr" => "127.0.0.1:1",
            _ => "true",
        };
        let variable = variable_name(long);
        let cli = try_parse("", &[(&variable, value)]).expect(&variable);
        if long == "config" {
            assert_eq!(cli.batch.config(), Some(std::path::Path::new("true")));
            continue;
        }
        let given = cli.batch.overrides();
        assert_ne!(given, Overrides::default(), "{variable} sets nothing");
        assert!(
            format!("{given:?}").contains(&format!("Environment({variable:?})")),
            "{given:?}"
        );
    }
}

#[test]
fn booleans_of_the_environment() {
    for (value, expect) in [
        ("1", Some(true)),
        ("true", Some(true)),
        ("yes", Some(true)),
        ("0", Some(false)),
        ("false", Some(false)),
        ("no", Some(false)),
        ("", None),
    ] {
        let given = overrides("", &[("BLAZE_DRY_RUN", value)]).dry_run;
        assert_eq!(given.map(|given| given.value), expect, "{value:?}");
    }
    for (value, expect) in [
        ("", None),
        ("0", None),
        ("no", None),
        ("2", Some(2)),
        ("true", Some(1)),
    ] {
        let given = overrides("", &[("BLAZE_VERBOSE", value)]).verbose;
        assert_eq!(given.map(|given| given.value), expect, "{value:?}");
    }
    assert_eq!(
        overrides("--overwrite=false", &[("BLAZE_OVERWRITE", "1")]).overwrite,
        Some(Given::by_flag("--overwrite", false))
    );
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = r#"{"endpoints": [{"url": "http://h/v1"}], "request": {"workers": 11, "timeout": "100ms"},
                   "input": "file.jsonl", "retry": {"max_attempts": 5}, "max_outage": "2m", "overwrite": true}"#;
    let check = |arguments: &str, variables: &[(&str, &str)], expect: usize| {
        let settings = settings(arguments, variables, Some(file)).expect("settings");
        assert_eq!(
            settings.config.request.workers, expect,
            "{arguments} {variables:?}"
        );
        // No flag, no variable: the file's values stand, no default hides them.
        assert_eq!(settings.config.request.timeout, Duration::from_millis(100));
        assert_eq!(settings.config.retry.max_attempts, 5);
        assert_eq!(settings.config.max_outage, Duration::from_secs(120));
        assert_eq!(settings.job.input, InputSource::File("file.jsonl".into()));
        assert!(settings.job.overwrite);
        // Nobody sets it: the default.
        assert_eq!(
            settings.config.request.rate_limit,
            Config::default().request.rate_limit
        );
    };
    check("-w 13", &[("BLAZE_WORKERS", "12")], 13);
    check("", &[("BLAZE_WORKERS", "12")], 12);
    check("", &[("BLAZE_WORKERS", "")], 11);
    check("", &[], 11);
    check("--workers auto", &[], Workers::AUTO_MAX);
    check("", &[("BLAZE_WORKERS", "auto")], Workers::AUTO_MAX);
    let none = settings(&format!("-i x {ENDPOINT}"), &[], None).expect("settings");
    assert_eq!(none.config.request.workers, Workers::AUTO_MAX);
}

#[test]
fn each_switch_switches_itself_alone_by_flag_variable_and_field() {
    let names = [
        "overwrite",
        "fresh",
        "salvage",
        "retry-errors",
        "dry-run",
        "json-logs",
        "no-progress",
    ];
    for (index, name) in names.iter().enumerate() {
        let field = name.replace('-', "_");
        let file = format!(r#"{{"endpoints": [{{"url": "http://h"}}], "{field}": true}}"#);
        for settings in [
            settings(&format!("-i x {ENDPOINT} --{name}"), &[], None),
            settings(
                &format!("-i x {ENDPOINT}"),
                &[(&variable_name(name), "1")],
                None,
            ),
            settings("-i x", &[], Some(&file)),
        ] {
            let Settings { job, console, .. } = settings.expect("settings");
            let switches = [
                job.overwrite,
                job.fresh,
                job.salvage,
                job.retry_errors,
                job.dry_run,
                console.json_logs,
                console.no_progress,
            ];
            let expect: [bool; 7] = std::array::from_fn(|switch| switch == index);
            assert_eq!(switches, expect, "{name}");
        }
        let off = settings(&format!("-i x --{name}=no"), &[], Some(&file)).expect("settings");
        assert_eq!(
            off.job,
            settings("-i x", &[], Some(&file.replace("true", "false")))
                .expect("settings")
                .job
        );
    }
}

#[test]
fn a_rate_of_zero_is_no_limit_and_not_one() {
    for arguments in ["-r 0", "--rate=0", "--rate 0.0"] {
        let settings =
            settings(&format!("-i x {ENDPOINT} {arguments}"), &[], None).expect("settings");
        assert_eq!(
            settings.config.request.rate_limit,
            Rate::Unlimited,
            "{arguments}"
        );
    }
}

#[test]
fn unknown_variables_are_errors_that_name_the_nearest() {
    for (name, nearest) in [
        ("BLAZE_WORKER", "BLAZE_WORKERS"),
        ("BLAZE_WROKERS", "BLAZE_WORKERS"),
        ("BLAZE_workers", "BLAZE_WORKERS"),
        ("BLAZE_ENDPOINT", "BLAZE_ENDPOINT_URL"),
        ("BLAZE_APIKEY", "BLAZE_API_KEY"),
        ("BLAZE_API_KEYS", "BLAZE_API_KEY"),
        ("BLAZE_MAX-ATTEMPTS", "BLAZE_MAX_ATTEMPTS"),
        ("BLAZE_CONFIG_FILE", "BLAZE_CONFIG"),
        ("BLAZE_", ""),
    ] {
        let error = try_parse("-i x", &[("BLAZE_RATE", "5"), (name, "hunter2")]).expect_err(name);
        let text = error.to_string();
        assert!(
            text.contains(&format!("unknown environment variable {name};"))
                && text.contains(&format!("the nearest is {nearest}")),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(error.exit_code(), 2, "{name}");
        // Set to nothing is not set; and the other jobs read none of them.
        try_parse("-i x", &[(name, "")]).expect("it is not set");
        try_parse("demo", &[(name, "x")]).expect("another job");
    }
    for name in [
        "BLAZE_API_KEY",
        "BLAZER_WORKER",
        "blaze_worker",
        "XBLAZE_WORKER",
    ] {
        try_parse("-i x", &[(name, "x")]).expect(name);
    }
}

#[test]
fn usage_errors_name_the_flag_or_the_variable_and_exit_2() {
    for (arguments, variables, expect) in [
        (
            "--rate -5",
            &[][..],
            "'-5' for '--rate <N>': expected a rate: 0 (no limit)",
        ),
        (
            "-w many",
            &[],
            "'many' for '--workers <N>': expected a whole number, or auto",
        ),
        ("-w -1", &[], "--workers"),
        ("-t 5x", &[], "expected a duration"),
        ("--runtime glommio", &[], "expected auto, uring or tokio"),
        ("--worker 5", &[], "'--worker'"),
        ("--overwrite=perhaps", &[], "expected true or false"),
        ("-i", &[], "a value is required"),
        ("-i a -i b", &[], "cannot be used multiple times"),
        ("stray", &[], "stray"),
        (
            "in.jsonl",
            &[],
            "in.jsonl stands alone; a file is given with its flag, -i: blaze-uring -i in.jsonl -o results.jsonl",
        ),
        ("-o out.jsonl in.jsonl", &[], "blaze-uring -i in.jsonl -o"),
        ("-i in.jsonl data/more", &[], "blaze-uring -i data/more -o"),
        ("c.toml", &[], "blaze-uring -c c.toml -i requests.jsonl"),
        ("completions", &[], "<SHELL>"),
        ("completions tcsh", &[], "bash"),
        ("demo -i x", &[], "-i"),
        (
            "",
            &[("BLAZE_RATE", "-5")],
            "invalid value \"-5\" for BLAZE_RATE: expected a rate",
        ),
        (
            "",
            &[("BLAZE_WORKERS", "x")],
            "invalid value \"x\" for BLAZE_WORKERS: expected a whole number, or auto",
        ),
        (
            "",
            &[("BLAZE_FRESH", "perhaps")],
            "for BLAZE_FRESH: expected true or false",
        ),
        (
            "",
            &[("BLAZE_VERBOSE", "loud")],
            "for BLAZE_VERBOSE: expected a number",
        ),
    ] {
        let error = try_parse(arguments, variables).expect_err(arguments);
        assert!(error.to_string().contains(expect), "{arguments}: {error}");
        assert_eq!(error.exit_code(), 2, "{arguments}");
    }
}

#[test]
fn values_that_parse_but_cannot_work_name_their_origin_and_exit_2() {
    for (arguments, variables, expect) in [
        ("-w 0", &[][..], "--workers: must be at least 1, found 0"),
        ("-a 0", &[], "--max-attempts: must be at least 1"),
        ("-t 0", &[], "--timeout: 0 would fail every request"),
        ("--cores 0", &[], "--cores: must be at least 1"),
        (
            "",
            &[("BLAZE_WORKERS", "0")],
            "BLAZE_WORKERS: must be at least 1",
        ),
        ("--max-cost nan", &[], "--max-cost: NaN is no budget"),
        (
            "--max-cost 5",
            &[],
            "--max-cost: costs are unknown without prices",
        ),
        ("-o x", &[], "--input and --output are the same file, x"),
        (
            "--max-line-bytes 0",
            &[],
            "--max-line-bytes: must be at least 1",
        ),
    ] {
        let arguments = format!("-i x {ENDPOINT} {arguments}");
        let error = settings(&arguments, variables, None).expect_err(&arguments);
        assert!(error.to_string().contains(expect), "{arguments}: {error}");
        assert_eq!(error.exit_status(), 2, "{arguments}");
    }
    let none = settings("", &[], None).expect_err("no input");
    assert!(none.to_string().contains("-i FILE"), "{none}");
    assert_eq!(none.exit_status(), 2);
    let none = settings("-i x", &[], None).expect_err("no endpoint");
    assert!(none.to_string().contains("--endpoint-url"), "{none}");
    assert_eq!(none.exit_status(), 1);
}

#[test]
fn subcommands_are_found_and_unbothered_by_the_batch_environment() {
    let cli = try_parse("demo", &[("BLAZE_RATE", "nonsense")]).expect("a subcommand");
    assert!(matches!(cli.command, Some(Command::Demo(_))));
    assert_eq!(cli.batch.overrides(), Overrides::default());
    assert!(matches!(
        try_parse("mock", &[]).expect("a subcommand").command,
        Some(Command::Mock(_))
    ));
    assert!(try_parse("-i x", &[]).expect("a batch").command.is_none());
}

#[test]
fn help_names_every_variable_and_shows_no_value() {
    let error =
        try_parse("--help", &[("BLAZE_ENDPOINT_URL", "http://u:hunter2@h")]).expect_err("help");
    assert_eq!(error.exit_code(), 0);
    let help = error.to_string();
    for expect in [
        "--rate",
        "BLAZE_MAX_ATTEMPTS",
        "BLAZE_CA_FILE",
        "BLAZE_API_KEY",
        "Traffic:",
        "[default: 1000]",
    ] {
        assert!(help.contains(expect), "{expect} in {help}");
    }
    assert!(!help.contains("hunter2"), "{help}");
    assert!(!help.contains("--api-key"), "{help}");
}

#[test]
fn debug_shows_no_credentials_of_the_url() {
    let cli = try_parse(
        "--endpoint-url http://u:hunter2@h",
        &[("BLAZE_ENDPOINT_URL", "http://u:hunter2@i")],
    )
    .expect("a command line");
    let shown = format!("{cli:?} {:?}", cli.batch.overrides());
    assert!(!shown.contains("hunter2"), "{shown}");
}

const DOCUMENTATION: &str = include_str!("../../../docs/CONFIGURATION.md");

#[test]
fn the_documentation_names_every_flag_and_variable() {
    for argument in command().get_arguments() {
        let Some(long) = argument.get_long() else {
            continue;
        };
        let short = argument
            .get_short()
            .map(|short| format!("-{short}, "))
            .unwrap_or_default();
        let row = format!("| `{short}--{long}");
        assert!(DOCUMENTATION.contains(&row), "no row {row}");
        let variable = format!("`{}`", variable_name(long));
        assert!(DOCUMENTATION.contains(&variable), "no {variable}");
        for alias in argument.get_aliases().unwrap_or_default() {
            assert!(
                DOCUMENTATION.contains(&format!("(`--{alias}`)")),
                "no alias {alias}"
            );
        }
    }
}

#[test]
fn the_documentations_examples_load() {
    let mut loaded = 0;
    for format in ["json", "toml", "yaml"] {
        for example in DOCUMENTATION.split(&format!("```{format}\n")).skip(1) {
            let text = example.split("```").next().unwrap_or_default().to_owned();
            let path = std::path::PathBuf::from(format!("c.{format}"));
            let overrides = overrides("-i x", &[]);
            let environment = |name: &str| name.ends_with("_API_KEY").then(|| "k".to_owned());
            load_settings(Some(&path), Some(text.clone()), &overrides, &environment)
                .unwrap_or_else(|error| panic!("{error}\n{text}"));
            loaded += 1;
        }
    }
    assert_eq!(loaded, 5);
}
