//! Fetches one token: walks the steps of its source until one gives a token.

use std::io::Read;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use super::Means;
use crate::client::{Failure, Pool, PoolSettings, ProxyRules, Target, Wanted};
use crate::config::Secret;
use crate::http::Origin;
use crate::provider::EntraSource;
use crate::provider::entra::{
    Ask, DeviceCode, DeviceLogin, Federated, Issued, Step, Surroundings, issued, issued_by_tool,
    login_pending,
};
use crate::runtime::dns::Resolver;
use crate::runtime::{self, Runtime};

/// One request to an issuer of tokens.
const ASK_TIMEOUT: Duration = Duration::from_secs(30);
/// A metadata service is on the same machine or nowhere.
const OPTIONAL_TIMEOUT: Duration = Duration::from_secs(2);
/// The `az` tool takes seconds, and may hang on a broken network.
const TOOL_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the tool is looked at.
const TOOL_LOOK: Duration = Duration::from_millis(20);
/// How late a deadline may be noticed.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// Why a step gave no token.
enum Miss {
    /// There is no such thing here: the next step may.
    Absent(String),
    /// It is there and refused.
    Refused(String),
}

/// Walks the steps of a source.
pub(super) struct Fetcher<R: Runtime> {
    surroundings: Surroundings,
    settings: PoolSettings,
    proxies: ProxyRules,
    resolver: Resolver,
    /// With which a login can be renewed.
    refresh_token: Option<Secret>,
    runtime: std::marker::PhantomData<R>,
}

impl<R: Runtime> Fetcher<R> {
    pub fn new(means: Means) -> Self {
        Self {
            surroundings: means.surroundings,
            settings: means.settings,
            proxies: means.proxies,
            resolver: means.resolver,
            refresh_token: None,
            runtime: std::marker::PhantomData,
        }
    }

    /// A token of `source`, from the first step that gives one.
    ///
    /// # Errors
    /// What each step said.
    pub async fn fetch(&mut self, source: EntraSource) -> Result<Issued, String> {
        let mut said = Vec::new();
        for step in self.surroundings.steps(source) {
            let result = match step {
                Step::Given(token) => Ok(Issued {
                    token,
                    life: None,
                    refresh_token: None,
                }),
                Step::Ask(ask) => self.token(&ask).await,
                Step::Federated(federated) => self.federated(&federated).await,
                Step::Tool(arguments) => run_tool::<R>(&arguments).await,
                Step::Device(login) => self.log_in(&login).await.map_err(Miss::Refused),
            };
            match result {
                Ok(issued) => return Ok(issued),
                Err(Miss::Absent(reason)) => said.push(reason),
                Err(Miss::Refused(reason)) => {
                    said.push(reason);
                    break;
                }
            }
        }
        Err(said.join("; "))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the other issuer renews its token in a file; this thread may wait for it"
    )]
    async fn federated(&self, federated: &Federated) -> Result<Issued, Miss> {
        let file = federated.file();
        let assertion = std::fs::read_to_string(file).map_err(|error| {
            let file = file.display();
            Miss::Refused(format!("AZURE_FEDERATED_TOKEN_FILE ({file}): {error}"))
        })?;
        self.token(&federated.ask(&Secret::from(assertion))).await
    }

    async fn token(&self, ask: &Ask) -> Result<Issued, Miss> {
        let (status, body) = self.ask(ask).await.map_err(|failure| {
            let reason = format!("{}: {failure}", ask.who);
            match ask.optional {
                true => Miss::Absent(reason),
                false => Miss::Refused(reason),
            }
        })?;
        issued(status, &body, unix_now_s()).map_err(|reason| {
            let reason = format!("{}: {reason}", ask.who);
            // A machine without an identity has a metadata service that says so.
            match ask.optional {
                true => Miss::Absent(reason),
                false => Miss::Refused(reason),
            }
        })
    }

    /// Renews the login, or has a person log in.
    async fn log_in(&mut self, login: &DeviceLogin) -> Result<Issued, String> {
        if let Some(token) = self.refresh_token.take()
            && let Ok((status, body)) = self.ask(&login.renew(&token)).await
            && let Ok(issued) = issued(status, &body, unix_now_s())
        {
            self.refresh_token.clone_from(&issued.refresh_token);
            return Ok(issued);
        }
        let text = |failure: Failure| failure.to_string();
        let (status, body) = self.ask(&login.begin()).await.map_err(text)?;
        let code = DeviceCode::read(status, &body)?;
        // A program that uses the library and listens to no logs needs to know it all the same.
        match tracing::dispatcher::has_been_set() {
            true => tracing::warn!("{}", code.message),
            false => eprintln!("{}", code.message),
        }
        let deadline = runtime::now() + code.life;
        let mut interval = code.interval;
        while runtime::now() < deadline {
            R::sleep_until(runtime::now() + interval).await;
            let (status, body) = self.ask(&login.look(&code)).await.map_err(text)?;
            if let Some(longer) = login_pending(&body) {
                interval += longer;
                continue;
            }
            let issued = issued(status, &body, unix_now_s())?;
            self.refresh_token.clone_from(&issued.refresh_token);
            return Ok(issued);
        }
        Err("nobody logged in in time".to_owned())
    }

    /// Status and body of the answer. A connection of its own each time: there is one every hour.
    async fn ask(&self, ask: &Ask) -> Result<(u16, Vec<u8>), Failure> {
        let timeout = match ask.optional {
            true => OPTIONAL_TIMEOUT,
            false => ASK_TIMEOUT,
        };
        let pool = Pool::<R>::new(
            self.settings.clone(),
            vec![self.target(&ask.origin, timeout, ask.optional)],
            self.resolver.clone(),
        );
        let sweeper = Rc::downgrade(&pool);
        R::spawn(async move {
            while let Some(pool) = sweeper.upgrade() {
                pool.sweep(runtime::now());
                drop(pool);
                R::sleep_until(runtime::now() + SWEEP_EVERY).await;
            }
        });
        let start = runtime::now();
        let deadline = start + timeout.mul_f64(0.9);
        let request = ask.request.expose().as_bytes();
        let exchange = pool
            .exchange(
                0,
                start,
                deadline,
                |out| out.extend_from_slice(request),
                |_| Wanted::More,
            )
            .await;
        let response = exchange.result?;
        let body = exchange.reply[response.body].to_vec();
        Ok((response.status, body))
    }

    fn target(&self, origin: &Origin, connect_timeout: Duration, local: bool) -> Target {
        // A machine's own metadata service is never behind a proxy.
        let proxy = self.proxies.proxy_for(origin).filter(|_| !local).cloned();
        Target {
            http2: Some(false),
            origin: origin.clone(),
            connect_timeout,
            proxy,
        }
    }
}

/// Runs `az` and reads what it prints.
async fn run_tool<R: Runtime>(arguments: &[String]) -> Result<Issued, Miss> {
    // On Windows `az` is a script, which only the shell finds.
    let mut command = match std::env::consts::OS {
        "windows" => {
            let mut shell = Command::new("cmd");
            shell.args(["/C", "az"]);
            shell
        }
        _ => Command::new("az"),
    };
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| Miss::Absent(format!("the az tool cannot be run: {error}")))?;
    let deadline = runtime::now() + TOOL_TIMEOUT;
    // A token has a few KiB and fits into the pipe: the tool can end before anybody reads.
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if runtime::now() < deadline => {
                R::sleep_until(runtime::now() + TOOL_LOOK).await;
            }
            Ok(None) | Err(_) => {
                // It ends by itself or by this; either way nobody waits for it.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Miss::Refused(
                    "az account get-access-token hangs".to_owned(),
                ));
            }
        }
    };
    let read = |pipe: Option<&mut dyn Read>| {
        let mut text = Vec::new();
        // What cannot be read is missing in the text, which then says so.
        let _ = pipe.map(|pipe| pipe.read_to_end(&mut text));
        text
    };
    if !status.success() {
        let text = read(child.stderr.as_mut().map(|pipe| pipe as &mut dyn Read));
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find(|line| !line.trim().is_empty());
        let line = line.unwrap_or("no reason given");
        return Err(Miss::Refused(format!(
            "az account get-access-token: {line}"
        )));
    }
    let output = read(child.stdout.as_mut().map(|pipe| pipe as &mut dyn Read));
    issued_by_tool(&output, unix_now_s()).map_err(Miss::Refused)
}

fn unix_now_s() -> u64 {
    runtime::unix_micros() / 1_000_000
}
