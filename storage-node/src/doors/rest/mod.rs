//! REST: JSON over HTTP/1.1 under `/v1`, on the `http` address and on the API's Unix socket. It is the only public
//! door; the command line and the page use it, too.
//!
//! There is no authentication yet: whoever reaches the address is an admin. Therefore it listens on loopback unless
//! the operator calls the network trusted, and [`guard`] refuses what a hostile page in a browser could send.

mod body;
mod call;
mod cluster;
mod disks;
mod docs;
mod events;
mod guard;
mod health;
mod jobs;
mod nodes;
mod page;
mod probes;
mod reads;
mod replicas;
mod reply;
mod serve;
mod volumes;
mod watch;

pub use serve::{serve_tcp, serve_unix};

use crate::node::Node;
use axum::Router;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Every path under `/v1`, with its description.
fn v1() -> OpenApiRouter<Arc<Node>> {
    OpenApiRouter::new()
        .routes(routes!(volumes::list, volumes::create))
        .routes(routes!(volumes::get, volumes::set, volumes::delete))
        .routes(routes!(volumes::resize))
        .routes(routes!(volumes::rename))
        .routes(routes!(volumes::attach))
        .routes(routes!(volumes::detach))
        .routes(routes!(volumes::scrub))
        .routes(routes!(volumes::force_insync))
        .routes(routes!(volumes::stats))
        .routes(routes!(replicas::list))
        .routes(routes!(replicas::get))
        .routes(routes!(replicas::relocate))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::get, nodes::remove))
        .routes(routes!(nodes::drain))
        .routes(routes!(nodes::undrain))
        .routes(routes!(nodes::maintenance))
        .routes(routes!(nodes::activate))
        .routes(routes!(disks::list, disks::add))
        .routes(routes!(disks::get, disks::remove))
        .routes(routes!(disks::drain))
        .routes(routes!(disks::undrain))
        .routes(routes!(disks::trust))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get))
        .routes(routes!(jobs::pause))
        .routes(routes!(jobs::resume))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::pause_all))
        .routes(routes!(jobs::resume_all))
        .routes(routes!(events::list))
        .routes(routes!(health::get))
        .routes(routes!(health::mute))
        .routes(routes!(health::unmute))
        .routes(routes!(cluster::get))
        .routes(routes!(cluster::init))
        .routes(routes!(cluster::join))
        .routes(routes!(cluster::rebalance))
        .routes(routes!(cluster::voters))
        .routes(routes!(cluster::finalize))
        .routes(routes!(cluster::attributes))
        .routes(routes!(watch::watch))
}

/// Everything that is served; `tcp`: to callers over TCP, which a browser may be.
fn router(node: Arc<Node>, tcp: bool) -> Router {
    let (v1, _) = v1().split_for_parts();
    v1.merge(probes::router())
        .merge(docs::router())
        .merge(page::router())
        .fallback(reply::nothing_here)
        .method_not_allowed_fallback(reply::no_such_method)
        .layer(axum::middleware::from_fn_with_state((node.clone(), tcp), guard::guard))
        .with_state(node)
}
