//! A line's bytes → a request's bytes: route, body, head, in one buffer for one write.

use std::borrow::Cow;

use crate::batch::admission::Ticket;
use crate::batch::shard::{Buffers, Shard};
use crate::http::HeadTemplate;
use crate::provider::{ApiPath, Endpoint};
use crate::runtime::Runtime;

/// Routes kept per endpoint; a file with more distinct `url`s than this computes the rest anew.
const ROUTES_KEPT: usize = 32;

impl<R: Runtime> Shard<R> {
    /// Writes the whole request of `ticket` into `buffers.request`.
    pub(super) fn encode(&self, ticket: &Ticket, line: &[u8], buffers: &mut Buffers) -> ApiPath {
        let endpoint = &self.plan.endpoints[ticket.endpoint];
        let parsed = &ticket.parsed;
        let mut routes = self.routes.borrow_mut();
        let route = routes.find(
            ticket.endpoint,
            endpoint,
            parsed.url(line).as_deref(),
            endpoint
                .routes_by_model()
                .then(|| parsed.model(line))
                .flatten()
                .as_deref(),
        );
        buffers.body.clear();
        parsed.write_body(line, &endpoint.body_rules(route.path), &mut buffers.body);
        buffers.request.clear();
        let extra: Vec<(Cow<'_, str>, Cow<'_, str>)> = parsed.headers(line).collect();
        route.head.write(
            extra.iter().map(|(name, value)| (&**name, &**value)),
            buffers.body.len(),
            &mut buffers.request,
        );
        buffers.request.extend_from_slice(&buffers.body);
        route.path
    }
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
pub(super) struct RouteCache {
    by_endpoint: Vec<Vec<CachedRoute>>,
}

struct CachedRoute {
    url: Option<String>,
    model: Option<String>,
    path: ApiPath,
    head: HeadTemplate,
}

impl RouteCache {
    pub(super) fn new(endpoints: usize) -> Self {
        Self {
            by_endpoint: (0..endpoints).map(|_| Vec::new()).collect(),
        }
    }

    fn find(
        &mut self,
        index: usize,
        endpoint: &Endpoint,
        url: Option<&str>,
        model: Option<&str>,
    ) -> &CachedRoute {
        let routes = &mut self.by_endpoint[index];
        let found = routes
            .iter()
            .position(|route| route.url.as_deref() == url && route.model.as_deref() == model);
        let position = found.unwrap_or_else(|| {
            if routes.len() >= ROUTES_KEPT {
                routes.pop();
            }
            let route = endpoint.route(url, model);
            routes.push(CachedRoute {
                url: url.map(str::to_owned),
                model: model.map(str::to_owned),
                path: route.path,
                head: head(endpoint, &route.target),
            });
            routes.len() - 1
        });
        &routes[position]
    }
}
