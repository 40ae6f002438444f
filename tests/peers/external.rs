//! nghttpd and nginx as processes of a test's own.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::support::{Place, WATCHDOG};

/// A port that was free may be taken before the server has it.
const PORT_TRIES_MAX: usize = 5;

/// Whether a program of `package` is there; CI must have it.
pub fn installed(program: &str, package: &str) -> bool {
    let found = ["/usr/sbin", "/usr/bin", "/usr/local/bin"]
        .iter()
        .any(|folder| PathBuf::from(folder).join(program).exists());
    if !found {
        assert!(
            std::env::var_os("CI").is_none(),
            "{program} is missing: apt-get install {package}"
        );
        eprintln!("SKIPPED: {program} is missing: apt-get install {package}");
    }
    found
}

/// A certificate for localhost, in files.
pub struct Certificate {
    place: Place,
}

impl Certificate {
    pub fn new() -> Self {
        let place = Place::new();
        let key = KeyPair::generate().expect("a key is made");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        place.write("ca.pem", params.self_signed(&key).expect("a root").pem());
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key is made");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        place.write("cert.pem", certificate.pem());
        place.write("key.pem", key.serialize_pem());
        Self { place }
    }

    /// Path of the authority, the certificate or its key.
    pub fn path(&self, name: &str) -> String {
        self.place.path(name).display().to_string()
    }
}

/// A server process; dropping it ends it.
pub struct External {
    pub address: SocketAddr,
    child: Child,
    pub place: Place,
}

impl External {
    /// nghttpd with `args`; bodies of requests come back as they were sent.
    pub fn nghttpd(certificate: Option<&Certificate>, args: &[&str]) -> Self {
        Self::start(|place, port| {
            let folder = place.path("").display().to_string();
            let mut command = Command::new("nghttpd");
            command.args(["--echo-upload", "-a", "127.0.0.1", "-d", &folder]);
            command.args(args);
            match certificate {
                None => {
                    command.arg("--no-tls").arg(port.to_string());
                }
                Some(files) => {
                    command.arg(port.to_string());
                    command.args([files.path("key.pem"), files.path("cert.pem")]);
                }
            }
            command
        })
    }

    /// nginx with one server: `settings` are its directives besides `listen`.
    pub fn nginx(certificate: Option<&Certificate>, settings: &str) -> Self {
        Self::start(|place, port| {
            let folder = place.path("").display().to_string();
            let (ssl, files) = match certificate {
                None => ("", String::new()),
                Some(files) => (
                    "ssl ",
                    format!(
                        "ssl_certificate {}; ssl_certificate_key {};",
                        files.path("cert.pem"),
                        files.path("key.pem")
                    ),
                ),
            };
            // $connection, $connection_requests: which connection, and its how many-th request.
            let text = format!(
                "daemon off; master_process off; worker_processes 1; pid nginx.pid; error_log stderr warn;
                 events {{ worker_connections 4000; }}
                 http {{
                   log_format exact '$connection $connection_requests $server_protocol $status $http_x_line';
                   access_log access.log exact;
                   client_max_body_size 64m; client_body_temp_path body; proxy_temp_path proxy;
                   fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                   server {{ listen 127.0.0.1:{port} {ssl}http2; {files} {settings} }}
                 }}"
            );
            place.write("nginx.conf", text);
            let mut command = Command::new("nginx");
            command.args(["-p", &folder, "-c", "nginx.conf"]);
            command
        })
    }

    fn start(command: impl Fn(&Place, u16) -> Command) -> Self {
        let mut said = String::new();
        for _ in 0..PORT_TRIES_MAX {
            let place = Place::new();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback is there");
            let address = listener.local_addr().expect("a bound address");
            drop(listener);
            let log = fs::File::create(place.path("server.log")).expect("a new file");
            let mut child = command(&place, address.port())
                .env("PATH", "/usr/sbin:/usr/bin:/usr/local/bin")
                .stdin(Stdio::null())
                .stdout(Stdio::from(log.try_clone().expect("a second handle")))
                .stderr(Stdio::from(log))
                .spawn()
                .expect("the server starts");
            let started = Instant::now();
            loop {
                if child.try_wait().expect("its state can be asked").is_some() {
                    said = String::from_utf8_lossy(&place.read("server.log")).into_owned();
                    break;
                }
                if TcpStream::connect(address).is_ok() {
                    return Self {
                        address,
                        child,
                        place,
                    };
                }
                assert!(started.elapsed() < WATCHDOG, "the server never listens");
                thread::sleep(Duration::from_millis(2));
            }
        }
        panic!("the server does not start: {said}");
    }

    pub fn url(&self, scheme: &str) -> String {
        let host = match scheme {
            "https" => "localhost",
            _ => "127.0.0.1",
        };
        format!(
            "{scheme}://{host}:{}/v1/chat/completions",
            self.address.port()
        )
    }

    /// A file of the server's, such as its log, as it is now.
    pub fn log(&self, name: &str) -> String {
        let mut text = String::new();
        fs::File::open(self.place.path(name))
            .and_then(|mut file| file.read_to_string(&mut text))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        text
    }
}

impl Drop for External {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
