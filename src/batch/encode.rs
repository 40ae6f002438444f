//! A line's bytes → a request's bytes: route, body, head, in one buffer for one write.

use std::borrow::Cow;

use crate::batch::admission::Ticket;
use crate::batch::line::Parsed;
use crate::batch::shard::Shard;
use crate::config::Secret;
use crate::http::HeadTemplate;
use crate::provider::{ApiPath, Endpoint};
use crate::runtime::{Runtime, buffers};

/// Routes kept per endpoint; a file with more distinct `url`s than this computes the rest anew.
const ROUTES_KEPT: usize = 32;

impl<R: Runtime> Shard<R> {
    /// Appends the whole request of `ticket` to `request`, which is empty.
    pub(super) fn encode(&self, ticket: &Ticket, request: &mut Vec<u8>) -> ApiPath {
        let line = self.input.text(&ticket.line);
        let endpoint = &self.plan.endpoints[ticket.endpoint];
        let tokens = self.tokens.as_ref().map(|tokens| tokens.borrow());
        let token = tokens.as_ref().and_then(|tokens| tokens.of(endpoint));
        ticket.token.set(token.map_or(0, |token| token.generation));
        let mut body = buffers::take();
        let path = self.routes.borrow_mut().encode(
            &Outgoing {
                index: ticket.endpoint,
                endpoint,
                token: token.map(|token| &token.secret),
                parsed: &ticket.parsed,
                line,
                max_tokens: None,
            },
            &mut body,
            request,
        );
        buffers::give_back(body);
        path
    }
}

/// One attempt's line and where it goes.
pub struct Outgoing<'a> {
    /// The endpoint's place among those of the cache.
    pub index: usize,
    /// Where the request goes.
    pub endpoint: &'a Endpoint,
    /// What was read from `line`.
    pub parsed: &'a Parsed,
    /// The line that was parsed.
    pub line: &'a [u8],
    /// A fetched token for the endpoint.
    pub token: Option<&'a Secret>,
    /// Limits the completion in the place of the endpoint's own setting.
    pub max_tokens: Option<u64>,
}

fn head(endpoint: &Endpoint, target: &str) -> HeadTemplate {
    let headers = endpoint.headers();
    let headers = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.expose()));
    HeadTemplate::new(&endpoint.origin, target, headers)
        .expect("targets are percent-encoded, and headers were checked with the config")
}

/// Request heads, rendered once per endpoint and distinct route.
pub struct RouteCache {
    by_endpoint: Vec<Vec<CachedRoute>>,
}

struct CachedRoute {
    url: Option<String>,
    model: Option<String>,
    completes_prompt: bool,
    path: ApiPath,
    head: HeadTemplate,
}

impl RouteCache {
    /// A cache for that many endpoints.
    pub fn new(endpoints: usize) -> Self {
        Self {
            by_endpoint: (0..endpoints).map(|_| Vec::new()).collect(),
        }
    }

    /// Writes the whole request into `request`, with `body` as room to work in.
    pub fn encode(
        &mut self,
        outgoing: &Outgoing<'_>,
        body: &mut Vec<u8>,
        request: &mut Vec<u8>,
    ) -> ApiPath {
        let Outgoing {
            index,
            endpoint,
            parsed,
            line,
            token,
            max_tokens,
        } = *outgoing;
        let route = self.find(
            index,
            endpoint,
            parsed.url(line).as_deref(),
            endpoint
                .routes_by_model()
                .then(|| parsed.model(line))
                .flatten()
                .as_deref(),
            parsed.completes_prompt(),
        );
        let mut rules = endpoint.body_rules(route.path);
        if max_tokens.is_some() {
            rules.max_tokens = route.path.max_tokens_field().zip(max_tokens);
        }
        body.clear();
        parsed.write_body(line, &rules, body);
        request.clear();
        let extra: Vec<(Cow<'_, str>, Cow<'_, str>)> = parsed.headers(line).collect();
        // A line's own header of that name counts, as it does for keys.
        let token = token
            .filter(|_| !(extra.iter()).any(|(name, _)| name.eq_ignore_ascii_case("authorization")))
            .and_then(|token| endpoint.token_header(token));
        let token = (token.as_ref()).map(|(name, value)| (name.as_str(), value.expose()));
        route.head.write(
            extra
                .iter()
                .map(|(name, value)| (&**name, &**value))
                .chain(token),
            body.len(),
            request,
        );
        request.extend_from_slice(body);
        route.path
    }

    fn find(
        &mut self,
        index: usize,
        endpoint: &Endpoint,
        url: Option<&str>,
        model: Option<&str>,
        completes_prompt: bool,
    ) -> &CachedRoute {
        let routes = &mut self.by_endpoint[index];
        let found = routes.iter().position(|route| {
            route.completes_prompt == completes_prompt
                && route.url.as_deref() == url
                && route.model.as_deref() == model
        });
        let position = found.unwrap_or_else(|| {
            if routes.len() >= ROUTES_KEPT {
                routes.pop();
            }
            let route = endpoint.route(url, model, completes_prompt);
            routes.push(CachedRoute {
                url: url.map(str::to_owned),
                model: model.map(str::to_owned),
                completes_prompt,
                path: route.path,
                head: head(endpoint, &route.target),
            });
            routes.len() - 1
        });
        &routes[position]
    }
}
