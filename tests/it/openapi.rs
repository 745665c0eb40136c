//! The description of the interface is true: every example in it is asked for, and answered with the
//! status, the fields and the body that it says.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use digestd::access::hosts::Hosts;
use digestd::access::networks::Client;
use digestd::access::{Access, Settings};
use digestd::digest::Digest;
use digestd::message::Message;
use digestd::store::{Fault, StoreError};
use serde_json::Value;

use crate::support::{Answer, Ask, Protocol, TestServer};

const METHODS: [&str; 5] = ["get", "head", "post", "put", "delete"];

/// What HTTP itself puts into any answer, and the type, which the description says elsewhere.
const FIELDS_OF_HTTP: [&str; 5] = [
    "connection",
    "content-length",
    "content-type",
    "date",
    "transfer-encoding",
];

/// Responses that no example brings about: heads that a client has to be forced to send, a body that
/// takes its time. They have tests of their own in `limits`.
const WITHOUT_EXAMPLE: [&str; 4] = ["400", "408", "431", "501"];

/// The description.
struct Spec(Value);

/// A request, and what is said of its answer.
struct Exchange<'a> {
    operation: &'a Operation<'a>,
    status: &'a str,
    response: &'a Value,
    /// The media type of the answer.
    kind: Option<&'a str>,
    name: &'a str,
    /// With its `x-request`, if it has one.
    example: &'a Value,
}

struct Operation<'a> {
    path: &'a str,
    method: &'a str,
    item: &'a Value,
    value: &'a Value,
}

impl Spec {
    async fn fetch() -> Self {
        let server = TestServer::start();
        let answer = server.ask(&Ask::get("/openapi.json")).await;
        Self(serde_json::from_slice(&answer.body).unwrap())
    }

    /// What a reference refers to; anything else is itself.
    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => {
                let pointer = reference.strip_prefix('#').expect(reference);
                self.resolve(self.0.pointer(pointer).expect(reference))
            }
            None => value,
        }
    }

    fn operations(&self) -> impl Iterator<Item = Operation<'_>> {
        members(&self.0["paths"]).flat_map(|(path, item)| {
            METHODS.into_iter().filter_map(move |method| {
                let value = item.get(method)?;
                Some(Operation {
                    path,
                    method,
                    item,
                    value,
                })
            })
        })
    }

    fn responses<'a>(&'a self, operation: &Operation<'a>) -> Vec<(&'a str, &'a Value)> {
        members(&operation.value["responses"])
            .map(|(status, response)| (status, self.resolve(response)))
            .collect()
    }

    fn exchanges<'a>(&'a self, operation: &'a Operation<'a>) -> Vec<Exchange<'a>> {
        let mut exchanges = Vec::new();
        for (status, response) in self.responses(operation) {
            let mut add = |kind, name, example| {
                exchanges.push(Exchange {
                    operation,
                    status,
                    response,
                    kind,
                    name,
                    example,
                });
            };
            if response.get("x-request").is_some() {
                add(None, "", response);
            }
            // An answer to HEAD is described with the body it does not have.
            for (kind, content) in members(&response["content"]) {
                for (name, example) in members(&content["examples"]) {
                    add(Some(kind), name, example);
                }
            }
        }
        exchanges
    }

    /// The request of an exchange.
    fn ask(&self, exchange: &Exchange<'_>) -> Ask {
        let Operation {
            path, method, item, ..
        } = *exchange.operation;
        let request = &exchange.example["x-request"];
        let path = request["path"].as_str().map_or_else(
            || self.filled_in(path, item, exchange),
            std::borrow::ToOwned::to_owned,
        );
        let query = request["query"].as_str();
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        let mut ask = Ask::new(&method.to_uppercase(), path + &query);
        if let Some(host) = request["host"].as_str() {
            ask = ask.host(host);
        }
        for (name, value) in members(&request["fields"]) {
            ask = ask.field(name, value.as_str().unwrap());
        }
        let kind = exchange
            .kind
            .filter(|_| request["fields"].get("Accept").is_none());
        if let Some(kind) = kind {
            ask = ask.field("accept", kind);
        }
        if let Some(body) = request["body"].as_str() {
            return ask.body(body);
        }
        if let Some(bytes) = request["body_bytes"].as_u64() {
            return ask.body(vec![b'a'; bytes.try_into().unwrap()]);
        }
        let body = self.resolve(&exchange.operation.value["requestBody"]);
        for (kind, content) in members(&body["content"]) {
            if let Some(example) = content["examples"].get(exchange.name) {
                let body = text_of(&example["value"]);
                return ask.field("content-type", kind).body(body);
            }
        }
        ask
    }

    /// `path` with the examples of its parameters that have the exchange's name, or the first ones.
    fn filled_in(&self, path: &str, item: &Value, exchange: &Exchange<'_>) -> String {
        let own = &exchange.operation.value["parameters"];
        let mut path = path.to_owned();
        for parameter in elements(&item["parameters"]).chain(elements(own)) {
            let parameter = self.resolve(parameter);
            if parameter["in"] == "path" {
                let examples = &parameter["examples"];
                let value = examples
                    .get(exchange.name)
                    .or_else(|| members(examples).next().map(|(_, example)| example))
                    .map_or(&parameter["schema"]["enum"][0], |example| &example["value"]);
                let name = format!("{{{}}}", parameter["name"].as_str().unwrap());
                path = path.replace(&name, value.as_str().unwrap());
            }
        }
        path
    }

    fn check(&self, exchange: &Exchange<'_>, answer: &Answer, said: &str) {
        let status: u16 = exchange.status.parse().unwrap();
        assert_eq!(answer.status, status, "{said}: {answer:?}");
        let described: Vec<_> = members(&exchange.response["headers"])
            .map(|(name, header)| (name.to_ascii_lowercase(), self.resolve(header)))
            .collect();
        for name in answer.fields.keys().map(hyper::header::HeaderName::as_str) {
            let is_known = described.iter().any(|(known, _)| known == name);
            assert!(is_known || FIELDS_OF_HTTP.contains(&name), "{said}: {name}");
        }
        for (name, header) in described {
            let Some(value) = answer.field(&name) else {
                assert_ne!(header["required"], true, "{said}: {name}");
                continue;
            };
            let schema = &header["schema"];
            let allowed = schema.get("const").into_iter();
            let allowed: Vec<_> = allowed.chain(elements(&schema["enum"])).collect();
            let is_allowed = allowed.is_empty() || allowed.contains(&&Value::from(value));
            assert!(is_allowed, "{said}: {name}: {value}");
        }
        if let Some(kind) = exchange.kind {
            let essence = answer.field("content-type").unwrap().split(';').next();
            assert_eq!(essence, Some(kind), "{said}");
            if exchange.operation.method != "head" {
                // A second of the hour may have passed.
                let text = answer
                    .text()
                    .replace("wait 3599 seconds", "wait 3600 seconds");
                let expected = text_of(&exchange.example["value"]);
                if kind == "application/json" && expected.contains("\"results\"") {
                    assert!(answer.is_laid_out_like(&expected), "{said}: {text}");
                } else {
                    assert_eq!(text, expected, "{said}");
                }
            }
        }
    }
}

/// A server in the state that an exchange needs, which lets everybody have all messages unless it is to
/// be discreet, with the message `foo` if it can have one.
async fn server(state: Option<&str>) -> TestServer {
    let with_tokens = state.and_then(|state| state.strip_prefix("tokens, "));
    let state = with_tokens.or(state);
    let server = match state {
        Some("starting") if with_tokens.is_some() => {
            return TestServer::guarded_starting(&asking_for_tokens());
        }
        _ if with_tokens.is_some() => TestServer::guarded(&asking_for_tokens()),
        Some("starting") => return TestServer::exporting(),
        Some("tokens") => return TestServer::guarded(&asking_for_tokens()),
        Some("denied") => return TestServer::guarded(&denying()),
        Some("on-loopback") => return TestServer::guarded(&on_loopback()),
        Some("limited") => return TestServer::guarded(&exhausted()),
        Some("discreet") => TestServer::start(),
        _ => TestServer::exporting().started(),
    };
    let is_known = with_tokens.is_some()
        || !matches!(state, Some("busy" | "failed" | "full" | "prefix-taken"));
    if is_known {
        let published = server.service.publish(Message::new("foo")).await;
        published.unwrap();
    }
    server.store.set_fault(match state {
        None | Some("discreet" | "ready") => None,
        Some("stopping") => {
            server.service.stop();
            None
        }
        Some("damaged") => Some(Fault::Gets(StoreError::Damaged)),
        Some("busy") => Some(Fault::Puts(StoreError::Busy)),
        Some("failed") => Some(Fault::Puts(StoreError::Failed)),
        Some("full") => Some(Fault::Puts(StoreError::Full)),
        Some("prefix-taken") => Some(Fault::Puts(StoreError::PrefixTaken)),
        Some(other) => panic!("unknown state {other}"),
    });
    server
}

/// Asks for tokens; `deleter` is one that allows nothing else, and `reader` is another.
fn asking_for_tokens() -> Arc<Access> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    let line = |name: &str, scope| format!("{name} {scope} {}\n", Digest::of(name.as_bytes()));
    let lines = line("deleter", "delete") + &line("reader", "read");
    std::fs::write(&path, lines).unwrap();
    open(Settings {
        tokens: Some(path),
        ..Settings::default()
    })
}

/// Believes this machine when it says for whom it speaks, and does not let in 192.0.2.1.
fn denying() -> Arc<Access> {
    open(Settings {
        deny: vec!["192.0.2.1".parse().unwrap()],
        trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
        ..Settings::default()
    })
}

/// Answers to few names.
fn on_loopback() -> Arc<Access> {
    open(Settings {
        hosts: Hosts::new(Vec::new(), None),
        ..Settings::default()
    })
}

/// This machine may ask once an hour, and did.
fn exhausted() -> Arc<Access> {
    let once = || Some("1/h".parse().unwrap());
    let access = open(Settings {
        read_rate: once(),
        write_rate: once(),
        ..Settings::default()
    });
    for is_write in [false, true] {
        access
            .check_rate(Client::of(Ipv4Addr::LOCALHOST.into()), is_write)
            .unwrap();
    }
    access
}

fn open(settings: Settings) -> Arc<Access> {
    Arc::new(Access::new(settings).unwrap())
}

/// A body as it is sent: a text as it is, all else as JSON for people.
fn text_of(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| format!("{value:#}\n"), str::to_owned)
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let members = value.as_object().into_iter().flatten();
    members.map(|(name, value)| (name.as_str(), value))
}

fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[tokio::test]
async fn every_example_is_answered_as_the_description_says() {
    let spec = Spec::fetch().await;
    let mut count = 0;
    for operation in spec.operations() {
        for exchange in spec.exchanges(&operation) {
            let server = server(exchange.example["x-request"]["server"].as_str()).await;
            let ask = spec.ask(&exchange);
            // What was counted is something else when it is asked for a second time, and what was
            // deleted is gone.
            let answer = if operation.path == "/metrics" || operation.method == "delete" {
                server.ask_over(Protocol::Http1, &ask).await
            } else {
                server.ask(&ask).await
            };
            spec.check(&exchange, &answer, &format!("{} of {ask:?}", exchange.name));
            count += 1;
        }
    }
    assert!(count > 240, "{count}");
}

#[tokio::test]
async fn the_type_of_every_problem_leads_to_its_cause() {
    let spec = Spec::fetch().await;
    let mut seen = BTreeSet::new();
    for operation in spec.operations() {
        for exchange in spec.exchanges(&operation) {
            let is_error = exchange.status.starts_with(['4', '5']);
            if !is_error || operation.method == "head" {
                continue;
            }
            let server = server(exchange.example["x-request"]["server"].as_str()).await;
            let ask = spec
                .ask(&exchange)
                .field("accept", "application/problem+json");
            let problem = server.ask(&ask).await;
            assert_eq!(problem.status.to_string(), exchange.status, "{ask:?}");
            let problem: Value = serde_json::from_slice(&problem.body).unwrap();
            let kind = problem["type"].as_str().expect("a type");
            let pointer = kind.strip_prefix("/openapi.yaml#").unwrap();
            let cause = spec.0.pointer(pointer).expect(kind);
            for member in ["status", "title"] {
                assert_eq!(cause[member], problem[member], "{kind}");
            }
            let name = Value::from(pointer.strip_prefix("/x-problems/").unwrap());
            let mut listed = elements(&exchange.response["x-problems"]);
            assert!(listed.any(|listed| *listed == name), "{ask:?}: {name}");
            seen.insert(kind.to_owned());
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
}

#[tokio::test]
async fn every_error_lists_its_causes_and_every_cause_is_of_an_error() {
    let spec = Spec::fetch().await;
    let mut listed = BTreeSet::new();
    for operation in spec.operations() {
        for (status, response) in spec.responses(&operation) {
            let said = format!("{} {} {status}", operation.method, operation.path);
            let causes: Vec<_> = elements(&response["x-problems"]).collect();
            let is_error = status.starts_with(['4', '5']);
            assert_eq!(is_error, !causes.is_empty(), "{said}");
            for cause in causes {
                let name = cause.as_str().unwrap();
                let of_cause = spec.0["x-problems"][name]["status"].to_string();
                assert_eq!(of_cause, status, "{said}: {name}");
                listed.insert(name);
            }
        }
    }
    // Said of a line, never of a request.
    listed.insert("too-many-errors");
    let all: BTreeSet<_> = members(&spec.0["x-problems"])
        .map(|(name, _)| name)
        .collect();
    assert_eq!(listed, all);
}

#[tokio::test]
async fn an_alias_is_another_address_of_an_operation_that_is_none() {
    let spec = Spec::fetch().await;
    let mut count = 0;
    for alias in spec.operations() {
        let Some(name) = alias.value.get("x-alias-of") else {
            let described = alias.value["description"].as_str().unwrap_or_default();
            assert!(!described.starts_with("The same as `/"), "{described}");
            continue;
        };
        let of = spec
            .operations()
            .find(|operation| operation.value["operationId"] == *name);
        let of = of.expect("an operation");
        assert_eq!(of.value.get("x-alias-of"), None, "{name}");
        assert_eq!(of.method, alias.method, "{name}");
        for member in ["tags", "security", "requestBody"] {
            assert_eq!(of.value[member], alias.value[member], "{name}");
        }
        count += 1;
    }
    assert_eq!(count, 10);
}

#[tokio::test]
async fn every_status_has_an_example_or_a_test_of_its_own() {
    let spec = Spec::fetch().await;
    for operation in spec.operations() {
        let exchanges = spec.exchanges(&operation);
        let shown: BTreeSet<_> = exchanges.iter().map(|exchange| exchange.status).collect();
        let is_page = operation.value["tags"][0] == "Description";
        for (status, _) in spec.responses(&operation) {
            // A batch has to be large.
            let is_batch = operation.path == "/messages/lookup" && status == "413";
            let is_excused = WITHOUT_EXAMPLE.contains(&status) || is_batch;
            let is_excused = is_excused || (is_page && status == "200");
            let is_shown = shown.contains(status);
            assert!(is_shown || is_excused, "{} {status}", operation.path);
        }
    }
}

#[tokio::test]
async fn every_path_has_the_methods_that_are_described_and_no_others() {
    let spec = Spec::fetch().await;
    let server = TestServer::exporting().started();
    for (path, item) in members(&spec.0["paths"]) {
        let answer = server.ask(&Ask::new("PATCH", path)).await;
        assert_eq!(answer.status, 405, "{path}");
        let allowed: BTreeSet<_> = answer.field("allow").unwrap().split(", ").collect();
        let has = |method: &&str| item.get(method.to_ascii_lowercase()).is_some();
        let mut described: BTreeSet<_> = allowed.iter().copied().filter(has).collect();
        if described.contains("GET") {
            described.insert("HEAD");
        }
        assert_eq!(allowed, described, "{path}");
        let methods = METHODS.iter().filter(|method| item.get(method).is_some());
        for method in methods {
            assert!(allowed.contains(&*method.to_uppercase()), "{path} {method}");
        }
    }
}

#[tokio::test]
async fn links_lead_from_a_stored_message_to_the_message() {
    let spec = Spec::fetch().await;
    let server = TestServer::start();
    let stored = &spec.0["components"]["responses"]["Stored"];
    let body = server.ask(&Ask::publish("foo")).await;
    let body: Value = serde_json::from_slice(&body.body).unwrap();
    let mut count = 0;
    for (name, link) in members(&stored["links"]) {
        let operation = spec
            .operations()
            .find(|operation| operation.value["operationId"] == link["operationId"]);
        let operation = operation.expect(name);
        let mut path = operation.path.to_owned();
        for (parameter, source) in members(&link["parameters"]) {
            let pointer = source.as_str().unwrap();
            let pointer = pointer.strip_prefix("$response.body#").unwrap();
            let value = body.pointer(pointer).unwrap().as_str().unwrap();
            path = path.replace(&format!("{{{parameter}}}"), value);
        }
        let ask = Ask::new(&operation.method.to_uppercase(), path);
        assert_eq!(server.ask(&ask).await.status, 200, "{ask:?}");
        count += 1;
    }
    assert_eq!(count, 2);
}

#[tokio::test]
async fn the_description_is_that_of_this_version() {
    let spec = Spec::fetch().await;
    assert_eq!(spec.0["info"]["version"], env!("CARGO_PKG_VERSION"));
    let yaml = TestServer::start().ask(&Ask::get("/openapi.yaml")).await;
    assert_eq!(yaml.text(), include_str!("../../src/http/openapi.yaml"));
}

#[tokio::test]
async fn an_operation_asks_for_the_scope_that_is_described() {
    let spec = Spec::fetch().await;
    let server = TestServer::guarded(&asking_for_tokens());
    for operation in spec.operations() {
        let Operation { path, method, .. } = operation;
        let said = format!("{method} {path}");
        let described = elements(&operation.value["security"])
            .find_map(|alternative| alternative["bearer"][0].as_str());
        let other = match described {
            Some("delete") => "Bearer reader",
            _ => "Bearer deleter",
        };
        let ask = Ask::new(&method.to_uppercase(), path).field("authorization", other);
        let answer = server.ask_over(Protocol::Http1, &ask).await;
        let Some(scope) = described else {
            assert_ne!(answer.status, 403, "{said}");
            continue;
        };
        assert_eq!(answer.status, 403, "{said}");
        let challenge = answer.field("www-authenticate").unwrap();
        assert!(challenge.contains(&format!("scope=\"{scope}\"")), "{said}");
    }
}
