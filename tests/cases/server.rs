//! A server for one case: it answers requests with bytes as the case gives them, over HTTP/1.1 and
//! threads, and shares no code with the program.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// One answer: bytes from the status line on, and when they go out.
#[derive(Clone)]
struct Answer {
    bytes: Vec<u8>,
    delay: Duration,
    close: bool,
}

impl Answer {
    fn read(value: &Value) -> Self {
        let bytes = match (value["raw"].as_str(), value["raw_base64"].as_str()) {
            (Some(text), None) => text.as_bytes().to_vec(),
            (None, Some(text)) => {
                use base64::Engine;
                base64::engine::general_purpose::STANDARD
                    .decode(text)
                    .expect("base64")
            }
            _ => panic!("one of raw and raw_base64: {value}"),
        };
        Self {
            bytes,
            delay: Duration::from_millis(value["delay_ms"].as_u64().unwrap_or(0)),
            close: value["close"].as_bool().unwrap_or(false),
        }
    }
}

/// A request as it came, and when its answer was sent.
pub struct Seen {
    pub target: String,
    pub headers: HashMap<String, String>,
    pub came: Instant,
    pub answered: Option<Instant>,
}

struct State {
    /// Answers by marker, each with how many are spent; the empty marker comes last.
    scripts: Vec<(String, Vec<Answer>, usize)>,
    full: Option<(usize, Answer)>,
    answering: usize,
    seen: Vec<Seen>,
}

/// A listening server; its threads end with their connections and the process.
pub struct Server {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// One that answers as `case` says.
    pub fn start(case: &Value) -> Self {
        let list = |value: &Value| -> Vec<Answer> {
            let answers = value.as_array().expect("a list of responses");
            answers.iter().map(Answer::read).collect()
        };
        let mut scripts: Vec<(String, Vec<Answer>, usize)> = match &case["responses"] {
            Value::Object(markers) => markers
                .iter()
                .map(|(marker, answers)| (marker.clone(), list(answers), 0))
                .collect(),
            answers => vec![(String::new(), list(answers), 0)],
        };
        scripts.sort_by_key(|(marker, ..)| marker.is_empty());
        let full = case.get("full").map(|full| {
            let places = full["places"].as_u64().expect("places") as usize;
            (places, Answer::read(&full["response"]))
        });
        let state = Arc::new(Mutex::new(State {
            scripts,
            full,
            answering: 0,
            seen: Vec::new(),
        }));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &state));
            }
        });
        Self { address, state }
    }

    /// What came in so far, in order.
    pub fn seen<T>(&self, look: impl FnOnce(&[Seen]) -> T) -> T {
        look(&self.state.lock().expect("no thread panics").seen)
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut writer = stream;
    while let Some((target, headers, body)) = request(&mut reader) {
        let (answer, index, counted) = {
            let mut state = state.lock().expect("no thread panics");
            let refusal = state
                .full
                .as_ref()
                .filter(|(places, _)| state.answering >= *places)
                .map(|(_, answer)| answer.clone());
            let counted = refusal.is_none();
            let answer = refusal.unwrap_or_else(|| {
                state.answering += 1;
                next_answer(&mut state, &body)
            });
            state.seen.push(Seen {
                target,
                headers,
                came: Instant::now(),
                answered: None,
            });
            (answer, state.seen.len() - 1, counted)
        };
        thread::sleep(answer.delay);
        {
            let mut state = state.lock().expect("no thread panics");
            if counted {
                state.answering -= 1;
            }
            state.seen[index].answered = Some(Instant::now());
        }
        if writer.write_all(&answer.bytes).is_err() {
            return;
        }
        if answer.close {
            let _ = writer.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn next_answer(state: &mut State, body: &[u8]) -> Answer {
    let (_, answers, spent) = state
        .scripts
        .iter_mut()
        .find(|(marker, ..)| {
            marker.is_empty() || memchr::memmem::find(body, marker.as_bytes()).is_some()
        })
        .expect("every request has an answer");
    let answer = answers[(*spent).min(answers.len() - 1)].clone();
    *spent += 1;
    answer
}

type Request = (String, HashMap<String, String>, Vec<u8>);

/// The next request with a `content-length`; `None` at the connection's end.
fn request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&read| read > 0)?;
    let target = line.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&read| read > 0)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length")?.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((target, headers, body))
}
