use super::*;

fn surroundings(variables: &[(&str, &str)]) -> Result<Surroundings, String> {
    Surroundings::read(|name| {
        let found = variables.iter().find(|(variable, _)| *variable == name)?;
        Some(found.1.to_owned())
    })
}

fn requests(variables: &[(&str, &str)], source: EntraSource) -> Vec<String> {
    let shown = |step| match step {
        Step::Given(token) => format!("given {}", token.expose()),
        Step::Ask(ask) => format!("{} {}", ask.origin, ask.request.expose()),
        Step::Federated(federated) => {
            let ask = federated.ask(&Secret::from("a.b.c\n"));
            let file = federated.file().display();
            format!("{file} {} {}", ask.origin, ask.request.expose())
        }
        Step::Tool(arguments) => format!("az {}", arguments.join(" ")),
        Step::Device(login) => login.begin().request.expose().to_owned(),
    };
    let steps = surroundings(variables)
        .expect("a good environment")
        .steps(source);
    steps.into_iter().map(shown).collect()
}

const AZ: &str =
    "az account get-access-token --output json --resource https://cognitiveservices.azure.com";

#[test]
fn the_environment_decides_the_way() {
    let default = |variables: &[(&str, &str)]| requests(variables, EntraSource::Default);
    assert_eq!(default(&[("AZURE_OPENAI_AD_TOKEN", "t\n")]), ["given t"]);
    assert_eq!(
        default(&[
            ("AZURE_TENANT_ID", "tenant"),
            ("AZURE_CLIENT_ID", "client"),
            ("AZURE_CLIENT_SECRET", "a&b"),
        ]),
        [
            "https://login.microsoftonline.com POST /tenant/oauth2/v2.0/token HTTP/1.1\r\n\
          host: login.microsoftonline.com\r\naccept: application/json\r\n\
          content-type: application/x-www-form-urlencoded\r\ncontent-length: 125\r\n\r\n\
          grant_type=client_credentials&client_id=client&client_secret=a%26b&\
          scope=https%3A%2F%2Fcognitiveservices.azure.com%2F.default"
        ]
    );
    let federated = [
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "client"),
        ("AZURE_FEDERATED_TOKEN_FILE", "/var/run/token"),
    ];
    assert_eq!(
        default(&federated),
        [
            "/var/run/token https://login.microsoftonline.com POST /tenant/oauth2/v2.0/token HTTP/1.1\r\n\
          host: login.microsoftonline.com\r\naccept: application/json\r\n\
          content-type: application/x-www-form-urlencoded\r\ncontent-length: 215\r\n\r\n\
          grant_type=client_credentials&client_id=client&\
          client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&\
          client_assertion=a.b.c&scope=https%3A%2F%2Fcognitiveservices.azure.com%2F.default"
        ]
    );
    // A client's secret comes first, and half a workload identity is none.
    let secret = [federated.as_slice(), &[("AZURE_CLIENT_SECRET", "s")]].concat();
    assert!(default(&secret)[0].contains("client_secret=s"));
    assert_eq!(default(&federated[1..]).len(), 2);
    let resource = "resource=https%3A%2F%2Fcognitiveservices.azure.com";
    assert_eq!(
        default(&[]),
        [
            format!(
                "http://169.254.169.254 GET /metadata/identity/oauth2/token?api-version=2018-02-01&{resource} \
                 HTTP/1.1\r\nhost: 169.254.169.254\r\naccept: application/json\r\nmetadata: true\r\n\r\n"
            ),
            AZ.to_owned(),
        ]
    );
    assert_eq!(
        default(&[
            ("IDENTITY_ENDPOINT", "http://127.0.0.1:41/msi/token"),
            ("IDENTITY_HEADER", "proof"),
            ("AZURE_CLIENT_ID", "client"),
        ])[0],
        format!(
            "http://127.0.0.1:41 GET /msi/token?api-version=2019-08-01&{resource}&client_id=client HTTP/1.1\r\n\
             host: 127.0.0.1:41\r\naccept: application/json\r\nx-identity-header: proof\r\n\r\n"
        )
    );
    let az = requests(&[("AZURE_TENANT_ID", "tenant")], EntraSource::AzureCli);
    assert_eq!(az, [format!("{AZ} --tenant tenant")]);
    let login = &requests(&[], EntraSource::Interactive)[0];
    assert!(
        login.starts_with("POST /organizations/oauth2/v2.0/devicecode "),
        "{login}"
    );
}

#[test]
fn a_secret_never_goes_out_in_the_clear() {
    let authority = |host| surroundings(&[("AZURE_AUTHORITY_HOST", host)]).err();
    assert!(authority("http://login.example").is_some_and(|why| why.contains("https://")));
    assert_eq!(authority("http://127.0.0.1:8080"), None);
    assert_eq!(authority("login.microsoftonline.us"), None);
    assert!(authority("ftp://x").is_some());
}

#[test]
fn answers_tell_how_long_a_token_lives() {
    let check = |body: &str, expect: Result<Option<u64>, &str>| {
        let life = issued(200, body.as_bytes(), 1000).map(|issued| issued.life);
        assert_eq!(
            life,
            expect
                .map(|life| life.map(Duration::from_secs))
                .map_err(str::to_owned)
        );
    };
    check(r#"{"access_token":"t","expires_in":3599}"#, Ok(Some(3599)));
    check(
        r#"{"access_token":"t","expires_in":"60","expires_on":"1500"}"#,
        Ok(Some(500)),
    );
    check(r#"{"access_token":"t","expires_on":7}"#, Ok(Some(0)));
    check(r#"{"access_token":"t"}"#, Ok(None));
    check(
        r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid secret.\r\nTrace ID: 1"}"#,
        Err("HTTP 200: AADSTS7000215: Invalid secret."),
    );
    check("<html>", Err("HTTP 200: no token in the answer"));
    assert!(issued(400, br#"{"access_token":"t"}"#, 0).is_err());

    let tool = issued_by_tool(br#"{"accessToken":"t","expires_on":1600}"#, 1000);
    assert_eq!(
        tool.map(|issued| issued.life),
        Ok(Some(Duration::from_secs(600)))
    );
    assert!(issued_by_tool(b"Please run az login", 0).is_err());
    assert_eq!(
        login_pending(br#"{"error":"authorization_pending"}"#),
        Some(Duration::ZERO)
    );
    assert_eq!(login_pending(br#"{"error":"expired_token"}"#), None);
}

#[test]
fn a_token_is_renewed_before_its_end() {
    let renew = |life: Option<u64>| {
        let issued = Issued {
            token: Secret::from("t"),
            life: life.map(Duration::from_secs),
            refresh_token: None,
        };
        issued.renew_after().map(|after| after.as_secs())
    };
    assert_eq!(renew(Some(3600)), Some(3240));
    assert_eq!(renew(Some(1200)), Some(900));
    assert_eq!(renew(Some(100)), Some(90));
    assert_eq!(renew(Some(0)), Some(1));
    assert_eq!(renew(None), None);
}
