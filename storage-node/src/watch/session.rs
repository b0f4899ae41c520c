//! One client's stream. It lives as long as the client listens, over changes of the leader.

use super::items::{Item, items, looking};
use crate::ask::leader_address;
use crate::member::Member;
use hf_control::error::{Code, Problem};
use hf_control::watch::{Change, Kind, Kinds, Position, Subscriber};
use hf_meta::service::FollowStream;
use hf_meta_proto::pb::{self, peer_client::PeerClient};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// A sign of life is sent this often.
const BOOKMARK: Duration = Duration::from_secs(10);
/// The progress of jobs is told this often.
const SOFT: Duration = Duration::from_secs(1);
/// Items that wait for the client's socket; what comes then waits in its [`Subscriber`], which is bounded.
const QUEUE: usize = 16;

/// Where a stream has come to, and what it is about.
struct Session {
    m: Arc<Member>,
    kinds: Kinds,
    kinds_text: String,
    last: Option<Position>,
    revision: Option<u64>,
    out: mpsc::Sender<Item>,
}

/// Why a part of a session ended.
enum End {
    /// The client is gone.
    Client,
    /// Another node leads, or none.
    Leader,
}

/// A stream for a client of this node. `last`: the id of the last item that it had; empty: none.
pub fn stream(
    m: &Arc<Member>,
    last: &str,
    revision: Option<u64>,
    kinds: &str,
) -> Result<ReceiverStream<Item>, Problem> {
    let session = session(m, last, revision, kinds)?;
    let seat = m.watching.seat().ok_or_else(|| {
        Problem::new(Code::RateLimited, "as many streams are open as this node serves")
            .so("close some, or watch at another node")
    })?;
    let (mut session, rx) = session;
    tokio::spawn(async move {
        session.run().await;
        drop(seat);
    });
    Ok(ReceiverStream::new(rx))
}

fn session(
    m: &Arc<Member>,
    last: &str,
    revision: Option<u64>,
    kinds: &str,
) -> Result<(Session, mpsc::Receiver<Item>), Problem> {
    let last = match last {
        "" => None,
        text => Some(Position::parse(text)?),
    };
    let (out, rx) = mpsc::channel(QUEUE);
    let parsed = Kinds::parse(kinds)?;
    Ok((Session { m: m.clone(), kinds: parsed, kinds_text: kinds.into(), last, revision, out }, rx))
}

/// A stream for another node's client, as long as this node leads.
pub fn followed(m: &Arc<Member>, r: &pb::FollowRequest) -> Result<FollowStream, Status> {
    if !m.meta.status.borrow().is_leader {
        return Err(Status::unavailable("this node does not lead"));
    }
    let revision = (r.after_revision > 0).then_some(r.after_revision);
    let (mut session, rx) =
        session(m, &r.after, revision, &r.kinds).map_err(|p| Status::invalid_argument(p.to_string()))?;
    tokio::spawn(async move {
        let _ended: End = session.local().await;
    });
    let items = ReceiverStream::new(rx).map(|i| Ok(pb::FollowItem { event: i.event.into(), id: i.id, data: i.data }));
    Ok(Box::pin(items))
}

impl Session {
    /// Serves the client by whoever leads, until it is gone.
    async fn run(&mut self) {
        loop {
            let leads = self.m.meta.status.borrow().is_leader;
            let ended = if leads { self.local().await } else { self.remote().await };
            if matches!(ended, End::Client) || self.out.is_closed() {
                return;
            }
            let stale = self.m.told.age().as_secs();
            if stale >= BOOKMARK.as_secs() && stale.is_multiple_of(5) {
                let revision = self.m.view.borrow().revision;
                let _ = self.out.try_send(Item::bookmark(String::new(), revision, Some(stale)));
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(300)) => {}
                () = self.out.closed() => return,
            }
        }
    }

    async fn send(&self, item: Item) -> Result<(), End> {
        self.out.send(item).await.map_err(|_| End::Client)
    }

    /// Serves the client from this node's own hub, as long as it leads.
    async fn local(&mut self) -> End {
        let Some(begun) = self.m.watching.begin(self.last, self.revision.take()) else { return End::Leader };
        let (first, at, rx) = match begun {
            Ok(b) => b,
            Err(why) => {
                // It goes on from now; what it lists will be at least as new.
                if self.send(Item::reset(&why.to_string())).await.is_err() {
                    return End::Client;
                }
                match self.m.watching.begin(None, None) {
                    Some(Ok(b)) => b,
                    _ => return End::Leader,
                }
            }
        };
        if first.is_empty() {
            self.last = Some(at);
        }
        match self.serve(&first, rx).await {
            Ok(()) => End::Leader,
            Err(end) => end,
        }
    }

    async fn serve(&mut self, first: &[Change], mut rx: broadcast::Receiver<Arc<Vec<Change>>>) -> Result<(), End> {
        let mut unread = Subscriber::new(self.kinds, first);
        let mut bookmark = tokio::time::interval(BOOKMARK);
        let mut soft = tokio::time::interval(SOFT);
        let (mut had_jobs, jobs_asked) = (false, self.kinds.has(Kind::Job));
        loop {
            // Everything that has come is taken before the next item is made, so that of a resource only the newest
            // state is sent.
            loop {
                match rx.try_recv() {
                    Ok(changes) => unread.add(&changes),
                    Err(broadcast::error::TryRecvError::Lagged(_)) => return self.lost().await,
                    Err(broadcast::error::TryRecvError::Closed) => return Ok(()),
                    Err(broadcast::error::TryRecvError::Empty) => break,
                }
            }
            match unread.take() {
                Err(_) => return self.lost().await,
                Ok(Some(change)) => {
                    self.tell(&change).await?;
                    continue;
                }
                Ok(None) => {}
            }
            tokio::select! {
                came = rx.recv() => match came {
                    Ok(changes) => unread.add(&changes),
                    Err(RecvError::Lagged(_)) => return self.lost().await,
                    Err(RecvError::Closed) => return Ok(()),
                },
                _ = bookmark.tick() => {
                    if !self.m.meta.status.borrow().is_leader {
                        return Ok(());
                    }
                    let id = self.last.map(|p| p.to_string()).unwrap_or_default();
                    let revision = self.m.view.borrow().revision;
                    self.send(Item::bookmark(id, revision, None)).await?;
                }
                _ = soft.tick(), if jobs_asked => {
                    if !self.m.meta.status.borrow().is_leader {
                        return Ok(());
                    }
                    let jobs = looking(&self.m, hf_control::view::jobs);
                    if !jobs.is_empty() || had_jobs {
                        had_jobs = !jobs.is_empty();
                        self.send(Item::of("soft", &serde_json::json!({ "jobs": jobs }))).await?;
                    }
                }
                () = self.out.closed() => return Err(End::Client),
            }
        }
    }

    /// The client has left too much unread: it must list anew, and its stream goes on from now.
    async fn lost(&mut self) -> Result<(), End> {
        self.last = None;
        self.send(Item::reset("more changes were left unread than are kept for one client")).await
    }

    async fn tell(&mut self, change: &Change) -> Result<(), End> {
        let Some(at) = self.m.watching.position(change.at) else { return Err(End::Leader) };
        let made = looking(&self.m, |look| items(look, change, &at.to_string()));
        for item in made {
            self.send(item).await?;
        }
        self.last = Some(at);
        Ok(())
    }

    /// Passes on what the leader streams, until that ends.
    async fn remote(&mut self) -> End {
        let Some(addr) = leader_address(&self.m).await else { return End::Leader };
        let Ok(channel) = hf_meta_proto::channel(&addr) else { return End::Leader };
        let ask = pb::FollowRequest {
            cluster: self.m.cluster.0.to_be_bytes().to_vec(),
            after: self.last.map(|p| p.to_string()).unwrap_or_default(),
            after_revision: self.revision.unwrap_or(0),
            kinds: self.kinds_text.clone(),
        };
        let mut peer = PeerClient::new(channel).max_decoding_message_size(hf_meta_proto::MAX_MESSAGE);
        let mut items = match tokio::time::timeout(Duration::from_secs(2), peer.follow(ask)).await {
            Ok(Ok(r)) => r.into_inner(),
            _ => return End::Leader,
        };
        self.revision = None;
        loop {
            // A leader that says nothing for longer than its signs of life take is none any more.
            let next = tokio::select! {
                n = tokio::time::timeout(BOOKMARK * 3 / 2, items.message()) => n,
                () = self.out.closed() => return End::Client,
            };
            let Ok(Ok(Some(i))) = next else { return End::Leader };
            if !i.id.is_empty() {
                self.last = Position::parse(&i.id).ok();
            }
            let Some(event) = WORDS.iter().find(|w| **w == i.event) else { continue };
            if self.send(Item { event, id: i.id, data: i.data }).await.is_err() {
                return End::Client;
            }
        }
    }
}

/// The events of a stream.
const WORDS: &[&str] = &["put", "gone", "event", "bookmark", "soft", "reset"];
