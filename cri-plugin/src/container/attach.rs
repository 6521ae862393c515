//! Attach: a client joins the streams of a container that runs, beside the log and beside other clients.
//!
//! When the client goes it is detached, and nothing else happens: the container is not its.

use std::sync::Arc;

use cleat_proto::cri::v1::AttachRequest;

use super::process::{self, Folder};
use super::relay::{self, Pipes};
use crate::Result;
use crate::daemon::Daemon;
use crate::streaming::Streams;

/// Joins a container's streams until they end or the client goes. Whether there is a terminal is what the container was
/// made with.
///
/// # Errors
/// `NotFound`, `WrongState`; the shim's words. Source: CRI api.proto, Attach.
pub async fn attach(daemon: &Arc<Daemon>, request: AttachRequest, streams: &mut Streams) -> Result<()> {
    let (container, shim) = process::running(daemon, &request.container_id)?;
    let (id, tty) = (container.id().as_str(), container.fixed.config.tty);
    let folder = Folder::make(daemon, crate::id::ContainerId::random()?.as_str())?;
    let gone = streams.gone.clone();
    let (stdio, pipes) = Pipes::make(&folder, streams, tty)?;
    let Pipes { mut stdin, output, sizes } = pipes;
    let listens = output.is_some();
    shim.attach(id, stdio).await?;
    if let Some((writer, _)) = &mut stdin {
        writer.release();
    }
    let input = async {
        if let Some((writer, inlet)) = stdin {
            writer.feed(inlet).await;
        }
        // Who listens stays for the output.
        if listens {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = output.pump(None), if listens => Ok(()),
        () = input => Ok(()),
        () = gone.wait() => Ok(()),
        never = relay::resizes(sizes.filter(|_| tty), &shim, id, "") => match never {},
    }
}
