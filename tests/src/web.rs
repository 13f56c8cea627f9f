//! A small HTTP server on a loopback port: files with tags and dates, some behind a login. Counts
//! what it is asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What is behind a path.
#[derive(Clone, Default)]
pub struct Page {
    pub body: Vec<u8>,
    /// More header lines of an answer, without line ends.
    pub headers: Vec<String>,
    pub etag: Option<String>,
    /// The `Authorization` without which the answer is 401.
    pub login: Option<String>,
    /// Where a redirect leads.
    pub location: Option<String>,
}

/// A request as it came: method, path, headers by lower-case name.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

/// Serves until the test's process ends.
pub struct Web {
    pub address: SocketAddr,
    pages: Arc<Mutex<BTreeMap<String, Page>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Web {
    pub fn start() -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free loopback port");
        let address = listener.local_addr().expect("its address");
        let web = Web {
            address,
            pages: Arc::default(),
            asked: Arc::default(),
        };
        let (pages, asked) = (web.pages.clone(), web.asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (pages, asked) = (pages.clone(), asked.clone());
                std::thread::spawn(move || answer(stream, &pages, &asked));
            }
        });
        web
    }

    pub fn put(&self, path: &str, page: Page) {
        let mut pages = self.pages.lock().expect("the pages");
        pages.insert(path.to_owned(), page);
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All requests since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().expect("the requests"))
    }
}

fn read_request(stream: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let mut asked = Asked {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        headers: BTreeMap::new(),
    };
    loop {
        line.clear();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return Some(asked);
        };
        asked
            .headers
            .insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
}

fn answer(
    mut stream: TcpStream,
    pages: &Mutex<BTreeMap<String, Page>>,
    log: &Mutex<Vec<Asked>>,
) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let asked = read_request(&mut reader)?;
    log.lock().ok()?.push(asked.clone());
    let path = asked.path.split('?').next()?;
    let page = pages.lock().ok()?.get(path).cloned();
    let (status, page) = match page {
        None => ("404 Not Found", Page::default()),
        Some(page)
            if page
                .login
                .as_ref()
                .is_some_and(|login| asked.headers.get("authorization") != Some(login)) =>
        {
            ("401 Unauthorized", Page::default())
        }
        Some(page) if page.location.is_some() => ("302 Found", page),
        Some(page)
            if page.etag.as_ref().is_some_and(|tag| {
                asked
                    .headers
                    .get("if-none-match")
                    .is_some_and(|tags| tags.contains(tag.as_str()))
            }) =>
        {
            (
                "304 Not Modified",
                Page {
                    body: Vec::new(),
                    ..page
                },
            )
        }
        Some(page) => ("200 OK", page),
    };
    let mut head = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n",
        page.body.len()
    );
    let more = page
        .headers
        .into_iter()
        .chain(page.etag.map(|tag| format!("ETag: {tag}")))
        .chain(page.location.map(|to| format!("Location: {to}")));
    for line in more {
        head.push_str(&line);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    if asked.method != "HEAD" {
        stream.write_all(&page.body).ok()?;
    }
    stream.flush().ok()?;
    let _ = stream.shutdown(std::net::Shutdown::Write);
    // Closing with unread bytes would take the answer back.
    let _ = reader.take(1 << 16).read_to_end(&mut Vec::new());
    Some(())
}
