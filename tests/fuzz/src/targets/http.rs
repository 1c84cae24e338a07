//! Request heads and bodies: never read in two ways, whatever the reads they arrive in.

use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use synckit_server::auth::Authenticator;
use synckit_server::clock::Now;
use synckit_server::config::{Config, Flags, HttpConfig};
use synckit_server::http::{
    Answer, Api, Body, BodyLength, Framing, HEAD_BYTES_MAX, HEADERS_MAX, Head, HttpError, client_address, route,
};

const NOW: Now = Now {
    mono_us: 3_600_000_000,
    unix_ms: 1_760_000_000_000,
};

thread_local! {
    static SERVER: OnceCell<(Api, HttpConfig)> = const { OnceCell::new() };
}

/// A server behind one proxy.
fn server() -> (Api, HttpConfig) {
    let variables = [
        ("SYNCKIT_AUTH_REQUIRED", "false"),
        ("TRUSTED_PROXIES", "127.0.0.1"),
        ("SYNCKIT_HTTP_REQUESTS_PER_MINUTE", "0"),
    ];
    let look_up = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let config = Config::from_env(look_up, &Flags::default()).expect("a valid configuration");
    let authenticator = Arc::new(Authenticator::new(&config.auth, Vec::new()));
    (Api::new(&config, authenticator, None), config.http)
}

/// The first byte says how the rest is cut into reads.
pub fn http_head(data: &[u8]) {
    let Some((recipe, stream)) = data.split_first() else {
        return;
    };
    let whole = Head::parse(stream);
    incremental(stream, *recipe, &whole);
    let Ok(Some(head)) = whole else {
        return;
    };
    assert!(head.head_bytes <= stream.len().min(HEAD_BYTES_MAX));
    assert_eq!(
        Head::parse(&stream[..head.head_bytes]).as_ref(),
        Ok(&Some(head.clone()))
    );
    read_one_way(&stream[..head.head_bytes], &head);
    let body = body(&stream[head.head_bytes..], *recipe, head.body);
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    SERVER.with(|server| {
        let (api, settings) = server.get_or_init(self::server);
        let _ = client_address(peer, &head, &settings.trusted_proxies);
        if let Answer::Respond(response) = route(&head, &body, peer, api, NOW) {
            let framing = Framing::new(&head, &settings.cors_origins);
            well_formed(&response.encode(&framing));
        }
    });
}

/// What a prefix was refused for, or taken as, the whole is too.
fn incremental(stream: &[u8], recipe: u8, whole: &Result<Option<Head>, HttpError>) {
    let mut seen = 0;
    for read in super::cut(stream, recipe).iter().take(64) {
        seen += read.len();
        match Head::parse(&stream[..seen]) {
            Ok(None) => {}
            decided => {
                assert_eq!(&decided, whole, "decided differently after {seen} bytes");
                return;
            }
        }
    }
}

/// A head that was taken has one length at most, no line feed of its own and no folded line.
fn read_one_way(bytes: &[u8], head: &Head) {
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    let text = text.trim_start_matches("\r\n");
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert!(lines.iter().all(|line| !line.contains(['\n', '\r', '\0'])), "{text:?}");
    let (mut lengths, mut codings) = (Vec::new(), 0);
    let headers: Vec<&&str> = lines[1..].iter().take_while(|line| !line.is_empty()).collect();
    assert!(headers.len() <= HEADERS_MAX);
    for line in headers {
        let (name, value) = line.split_once(':').expect("a header has a colon");
        assert_eq!(name, name.trim(), "{line:?}");
        match name.to_ascii_lowercase().as_str() {
            "content-length" => lengths.push(value.trim_matches([' ', '\t']).to_owned()),
            "transfer-encoding" => codings += 1,
            _ => {}
        }
    }
    assert!(lengths.len() <= 1 && (codings == 0 || lengths.is_empty()), "{text:?}");
    match head.body {
        BodyLength::Chunked => assert!(codings > 0),
        BodyLength::Bytes(bytes) => {
            assert_eq!(codings, 0);
            let said = lengths.first().map_or(Ok(0), |length| length.parse());
            assert_eq!(said, Ok(bytes), "{text:?}");
        }
    }
}

/// The same body, refusal and end whatever the reads.
fn body(stream: &[u8], recipe: u8, length: BodyLength) -> Vec<u8> {
    let mut whole = Body::new(length);
    let expected = whole.push(stream);
    let mut pieces = Body::new(length);
    let mut consumed = 0;
    for read in super::cut(stream, recipe) {
        match pieces.push(&read) {
            Ok(progress) => {
                consumed += progress.consumed;
                if progress.complete {
                    break;
                }
                assert_eq!(progress.consumed, read.len());
            }
            Err(error) => {
                assert_eq!(expected, Err(error));
                return Vec::new();
            }
        }
    }
    let expected = expected.expect("the pieces were taken");
    assert_eq!(consumed, expected.consumed);
    assert_eq!(pieces.bytes(), whole.bytes());
    assert!(whole.bytes().len() <= stream.len());
    whole.bytes().to_vec()
}

/// A response that a strict reader takes: no header can have been smuggled into it.
fn well_formed(response: &[u8]) {
    let end = response.windows(4).position(|four| four == b"\r\n\r\n");
    let head = std::str::from_utf8(&response[..end.expect("a complete head")]).expect("text");
    let mut lines = head.split("\r\n");
    assert!(lines.next().is_some_and(|line| line.starts_with("HTTP/1.1 ")));
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?}"));
        assert!(
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
            "{line:?}"
        );
        assert!(!value.contains(['\r', '\n', '\0']), "{line:?}");
    }
}
