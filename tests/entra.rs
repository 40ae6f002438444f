//! Entra tokens end to end: the real binary against local servers that speak the documented
//! protocols, and a fake `az` on the PATH.

#![cfg(unix)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test makes its own files, sockets and clocks"
)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blaze_uring::mock::{Mock, Scripted};
use serde_json::json;

use support::{Place, Run, bodies, run_with, runtimes, scripted, spawn_with};

const SCOPE: &str = "scope=https%3A%2F%2Fcognitiveservices.azure.com%2F.default";
const RESOURCE: &str = "resource=https%3A%2F%2Fcognitiveservices.azure.com";
const CONTENT: &str = r#"{"choices":[{"message":{"role":"assistant","content":"hi"}}]}"#;

/// Issues `token-1`, `token-2` and so on, each good for `life` seconds.
fn issuer(life: u64) -> Mock {
    let count = AtomicU64::new(0);
    scripted(move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        let answer = json!({"token_type": "Bearer", "expires_in": life, "access_token": format!("token-{number}")});
        Some(Scripted::json(200, answer.to_string()))
    })
}

/// An API that refuses every token for which `accepts` says no.
fn api(accepts: fn(&str) -> bool) -> Mock {
    scripted(move |request| {
        let token = request
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        assert_eq!(request.header("api-key"), None, "a token is no key");
        Some(match token {
            Some(token) if accepts(token) => Scripted::json(200, CONTENT),
            _ => Scripted::json(
                401,
                r#"{"error":{"code":"401","message":"Access denied due to invalid token"}}"#,
            ),
        })
    })
}

/// The tokens that reached the API, in order.
fn tokens(api: &Mock) -> Vec<String> {
    let token = |value: &str| value.trim_start_matches("Bearer ").to_owned();
    let requests = api.requests();
    let tokens = requests
        .iter()
        .filter_map(|seen| seen.header("authorization"));
    tokens.map(token).collect()
}

/// A folder with `lines` lines and a configuration of two endpoints with this `api_key`.
fn place(api: &Mock, key: &str, lines: usize) -> Place {
    let place = Place::new();
    let line = r#"{"messages":[{"role":"user","content":"hi"}]}"#;
    place.input(&vec![line; lines]);
    let endpoint = |name: &str| json!({"name": name, "url": api.url(""), "provider": "azure", "api_key": key, "model": "gpt"});
    let config = json!({"endpoints": [endpoint("one"), endpoint("two")]});
    place.write("config.json", config.to_string());
    place
}

/// None of the machine's own logins reach the child.
fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("AZURE_") || text.starts_with("IDENTITY_") || text.starts_with("MSI_") {
            command.env_remove(&name);
        }
    }
}

fn arguments<'a>(runtime: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let usual = [
        "-i",
        "in.jsonl",
        "-o",
        "out.jsonl",
        "-c",
        "config.json",
        "--cores",
        "1",
        "--no-progress",
        "--runtime",
        runtime,
    ];
    usual.into_iter().chain(more.iter().copied()).collect()
}

fn run(place: &Place, runtime: &str, more: &[&str], variables: &[(&str, &str)]) -> Run {
    run_with(place, &arguments(runtime, more), |command| {
        clean(command);
        command.envs(variables.iter().copied());
    })
}

/// The API that [`a_client_in_a_child`] is to call, and the runtime.
const CHILD: [&str; 2] = ["BLAZE_TEST_CLIENT_API", "BLAZE_TEST_CLIENT_RUNTIME"];

/// Not a test of its own: what [`a_client_fetches_its_tokens_and_renews_a_refused_one`] runs, because a process has
/// one environment.
#[test]
fn a_client_in_a_child() {
    let [Ok(url), Ok(runtime)] = CHILD.map(std::env::var) else {
        return;
    };
    let endpoint = |name: &str| blaze_uring::EndpointConfig {
        name: Some(name.to_owned()),
        url: url.clone(),
        provider: Some(blaze_uring::config::ProviderKind::Azure),
        api_key: Some("default".into()),
        model: Some("gpt".to_owned()),
        ..Default::default()
    };
    let client = blaze_uring::Client::new(blaze_uring::Config {
        endpoints: vec![endpoint("one"), endpoint("two")],
        runtime: runtime.parse().expect("a runtime"),
        ..Default::default()
    })
    .expect("a client");
    for _ in 0..4 {
        let answer = client.chat_completion("hi").expect("an answer");
        assert_eq!((answer.text(), answer.attempts), (Some("hi"), 1));
    }
    client.close();
}

#[test]
fn a_client_fetches_its_tokens_and_renews_a_refused_one() {
    for runtime in runtimes() {
        let (issuer, api) = (issuer(3600), api(|token| token != "token-1"));
        let (authority, url) = (issuer.url(""), api.url(""));
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        clean(&mut command);
        command
            .args(["--exact", "a_client_in_a_child", "--nocapture"])
            .envs(CHILD.into_iter().zip([url.as_str(), runtime]))
            .envs(client_secret(&authority));
        let output = command.output().expect("the child runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{runtime}: {said}");
        let tokens = tokens(&api);
        let refused = tokens.iter().filter(|token| *token == "token-1").count();
        let taken = tokens.iter().filter(|token| *token == "token-2").count();
        assert!(refused >= 1 && taken == 4, "{runtime}: {tokens:?}");
        assert_eq!(issuer.requests().len(), 2, "{runtime}");
        assert!(!said.contains("token-"), "{runtime}: {said}");
    }
}

fn client_secret(authority: &str) -> Vec<(&str, &str)> {
    vec![
        ("AZURE_AUTHORITY_HOST", authority),
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "client"),
        ("AZURE_CLIENT_SECRET", "se/cret"),
    ]
}

#[test]
fn one_token_serves_all_endpoints_of_a_tenant() {
    for runtime in runtimes() {
        let (issuer, api) = (issuer(3600), api(|token| token == "token-1"));
        let place = place(&api, "default", 6);
        let authority = issuer.url("");
        run(&place, runtime, &[], &client_secret(&authority)).expect(0);
        assert_eq!(tokens(&api), ["token-1"; 6]);
        assert_eq!(place.records("out.jsonl").len(), 6);
        let asked = issuer.requests();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].target, "/tenant/oauth2/v2.0/token");
        assert_eq!(
            bodies(&issuer),
            [format!(
                "grant_type=client_credentials&client_id=client&client_secret=se%2Fcret&{SCOPE}"
            )]
        );
    }
}

/// The file is read anew for each token: its issuer renews it.
#[test]
fn a_workload_identity_presents_the_token_in_its_file() {
    for runtime in runtimes() {
        let api = api(|token| token == "token-2");
        let place = place(&api, "default", 6);
        let file = place.write("federated", "first.jwt\n");
        let (renewed, count) = (file.clone(), AtomicU64::new(0));
        let issuer = scripted(move |_| {
            std::fs::write(&renewed, "second.jwt").expect("the file is renewed");
            let number = count.fetch_add(1, Ordering::Relaxed) + 1;
            let answer = json!({"expires_in": 3600, "access_token": format!("token-{number}")});
            Some(Scripted::json(200, answer.to_string()))
        });
        let authority = issuer.url("");
        let variables = [
            ("AZURE_AUTHORITY_HOST", authority.as_str()),
            ("AZURE_TENANT_ID", "tenant"),
            ("AZURE_CLIENT_ID", "client"),
            (
                "AZURE_FEDERATED_TOKEN_FILE",
                file.to_str().expect("a path of text"),
            ),
        ];
        run(&place, runtime, &[], &variables).expect(0);
        assert_eq!(place.records("out.jsonl").len(), 6);
        let asked = |assertion: &str| {
            format!(
                "grant_type=client_credentials&client_id=client&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3A\
                 client-assertion-type%3Ajwt-bearer&client_assertion={assertion}&{SCOPE}"
            )
        };
        assert_eq!(bodies(&issuer), [asked("first.jwt"), asked("second.jwt")]);
        assert_eq!(issuer.requests()[0].target, "/tenant/oauth2/v2.0/token");
    }
}

#[test]
fn a_refused_token_is_renewed_once() {
    for runtime in runtimes() {
        let (issuer, api) = (issuer(3600), api(|token| token == "token-2"));
        let place = place(&api, "default", 20);
        let authority = issuer.url("");
        run(&place, runtime, &[], &client_secret(&authority)).expect(0);
        let records = place.records("out.jsonl");
        assert_eq!(records.len(), 20);
        for record in records {
            assert_eq!(
                record["metadata"]["attempts"], 1,
                "a renewal costs no attempt"
            );
        }
        assert_eq!(issuer.requests().len(), 2);
    }
}

#[test]
fn a_fresh_token_that_is_refused_disables_the_endpoints() {
    for runtime in runtimes() {
        let (issuer, api) = (issuer(3600), api(|_| false));
        let place = place(&api, "default", 5);
        let authority = issuer.url("");
        let run = run(&place, runtime, &[], &client_secret(&authority)).expect(4);
        assert!(run.stderr.contains("Access denied"), "{}", run.stderr);
        assert_eq!(issuer.requests().len(), 2);
        assert!(!run.stderr.contains("token-"), "{}", run.stderr);
    }
}

#[test]
fn a_token_that_a_server_repeats_is_not_shown() {
    for runtime in runtimes() {
        let issuer = issuer(3600);
        let api = scripted(|request| {
            let sent = request.header("authorization").unwrap_or("nothing");
            let answer = json!({"error": {"message": format!("cannot read {sent}")}});
            Some(Scripted::json(400, answer.to_string()))
        });
        let place = place(&api, "default", 1);
        let authority = issuer.url("");
        let run = run(&place, runtime, &[], &client_secret(&authority)).expect(3);
        let records = String::from_utf8(place.read("errors.jsonl")).expect("text");
        assert!(records.contains("cannot read Bearer ***"), "{records}");
        assert!(!(run.stderr + &records).contains("token-1"));
    }
}

#[test]
fn a_token_is_renewed_before_it_expires() {
    for runtime in runtimes() {
        let (issuer, api) = (issuer(2), api(|_| true));
        let place = place(&api, "default", 40);
        let authority = issuer.url("");
        // Four seconds of work with tokens of two.
        run(
            &place,
            runtime,
            &["--rate", "10"],
            &client_secret(&authority),
        )
        .expect(0);
        let tokens = tokens(&api);
        assert_eq!((tokens.len(), tokens[0].as_str()), (40, "token-1"));
        assert_ne!(tokens[39], "token-1");
        let asked: Vec<Duration> = issuer.requests().iter().map(|seen| seen.arrived).collect();
        assert!(
            asked[1] - asked[0] >= Duration::from_millis(1500),
            "{asked:?}"
        );
    }
}

#[test]
fn a_managed_identity_is_asked_for_by_both_protocols() {
    for runtime in runtimes() {
        let (issuer, api) = (issuer(3600), api(|_| true));
        let host = issuer.url("");
        run(
            &place(&api, "default", 1),
            runtime,
            &[],
            &[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &host)],
        )
        .expect(0);
        let endpoint = issuer.url("/msi/token");
        let variables = [
            ("IDENTITY_ENDPOINT", endpoint.as_str()),
            ("IDENTITY_HEADER", "proof"),
            ("AZURE_CLIENT_ID", "mine"),
        ];
        run(&place(&api, "default", 1), runtime, &[], &variables).expect(0);
        let asked = issuer.requests();
        assert_eq!(
            asked[0].target,
            format!("/metadata/identity/oauth2/token?api-version=2018-02-01&{RESOURCE}")
        );
        assert_eq!(
            (asked[0].method.as_str(), asked[0].header("metadata")),
            ("GET", Some("true"))
        );
        assert_eq!(
            asked[1].target,
            format!("/msi/token?api-version=2019-08-01&{RESOURCE}&client_id=mine")
        );
        assert_eq!(asked[1].header("x-identity-header"), Some("proof"));
        assert_eq!(tokens(&api), ["token-1", "token-2"]);
    }
}

/// A machine without an identity says so, or has no such service: then the login of the tool counts.
#[test]
fn without_a_managed_identity_the_tool_is_asked() {
    for runtime in runtimes() {
        let none = scripted(|_| {
            let answer = r#"{"error":"invalid_request","error_description":"Identity not found"}"#;
            Some(Scripted::json(400, answer))
        });
        let api = api(|token| token == "from-az");
        let place = place(&api, "default", 1);
        let path = fake_az(
            &place,
            r#"echo '{"accessToken":"from-az","expires_on":4000000000}'"#,
        );
        let host = none.url("");
        let variables = [
            ("AZURE_POD_IDENTITY_AUTHORITY_HOST", host.as_str()),
            ("PATH", path.as_str()),
        ];
        run(&place, runtime, &[], &variables).expect(0);
        assert_eq!(none.requests().len(), 1);
        assert_eq!(tokens(&api), ["from-az"]);
    }
}

#[test]
fn a_token_in_the_environment_is_taken_as_it_is() {
    for runtime in runtimes() {
        let api = api(|_| true);
        let variables = [("AZURE_OPENAI_AD_TOKEN", "given")];
        run(&place(&api, "default", 2), runtime, &[], &variables).expect(0);
        assert_eq!(tokens(&api), ["given"; 2]);
    }
}

fn fake_az(place: &Place, script: &str) -> String {
    let path = place.write("az", format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
        .expect("made executable");
    let folder = path.parent().and_then(Path::to_str).expect("a folder");
    format!("{folder}:/usr/bin:/bin")
}

#[test]
fn the_az_tool_is_run_for_its_login() {
    for runtime in runtimes() {
        let api = api(|token| token == "from-az");
        let place = place(&api, "az", 2);
        let path = fake_az(
            &place,
            r#"echo "$@" >> az.log; echo '{"accessToken":"from-az","expires_on":4000000000,"tokenType":"Bearer"}'"#,
        );
        run(&place, runtime, &[], &[("PATH", &path)]).expect(0);
        assert_eq!(tokens(&api), ["from-az"; 2]);
        let log = String::from_utf8(place.read("az.log")).expect("text");
        assert_eq!(
            log,
            "account get-access-token --output json --resource https://cognitiveservices.azure.com\n"
        );
    }
}

#[test]
fn without_a_token_nothing_starts_and_the_reason_is_told() {
    for runtime in runtimes() {
        let api = api(|_| true);
        let place = place(&api, "az", 2);
        let path = fake_az(
            &place,
            "echo \"ERROR: Please run 'az login' to setup account.\" >&2; exit 1",
        );
        let run = run(&place, runtime, &[], &[("PATH", &path)]).expect(1);
        assert!(
            run.stderr.contains("Please run 'az login'"),
            "{}",
            run.stderr
        );
        assert_eq!(api.requests().len(), 0);
    }
}

#[test]
fn a_person_logs_in_by_device_code() {
    for runtime in runtimes() {
        let looks = Arc::new(AtomicU64::new(0));
        let issuer = scripted(move |request| {
            if request.target.ends_with("/devicecode") {
                let answer = json!({
                    "device_code": "device", "user_code": "ABC", "verification_uri": "https://login",
                    "expires_in": 900, "interval": 0.05,
                    "message": "To sign in, open https://login and enter the code ABC",
                });
                return Some(Scripted::json(200, answer.to_string()));
            }
            Some(match looks.fetch_add(1, Ordering::Relaxed) {
                0 => Scripted::json(400, r#"{"error":"authorization_pending"}"#),
                _ => Scripted::json(
                    200,
                    r#"{"access_token":"mine","expires_in":3600,"refresh_token":"again"}"#,
                ),
            })
        });
        let api = api(|token| token == "mine");
        let place = place(&api, "interactive", 2);
        let authority = issuer.url("");
        let mut running = spawn_with(&place, &arguments(runtime, &[]), |command| {
            clean(command);
            command.env("AZURE_AUTHORITY_HOST", &authority);
        });
        running.until_stderr("enter the code ABC");
        running.wait().expect(0);
        assert_eq!(tokens(&api), ["mine"; 2]);
        let asked = bodies(&issuer);
        assert!(
            asked[0].starts_with("client_id=")
                && asked[0].ends_with(&format!("{SCOPE}+offline_access")),
            "{asked:?}"
        );
        assert!(asked[2].contains("device_code=device"), "{asked:?}");
    }
}
