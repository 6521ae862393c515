//! A runtime under load: where it answers, and how its processes are told from others'.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cleat_proto::cri::v1::image_service_client::ImageServiceClient;
use cleat_proto::cri::v1::runtime_service_client::RuntimeServiceClient;
use cleat_proto::cri::v1::{ImageSpec, ListPodSandboxRequest, PullImageRequest};
use tonic::transport::{Channel, Endpoint, Uri};

/// One column of the report.
#[derive(Debug, Clone)]
pub struct Target {
    /// As it is printed.
    pub name: String,
    /// The CRI socket's path.
    pub socket: String,
    /// The runtime handler; empty is the default.
    pub handler: String,
    /// The file with the daemon's pid.
    pub pid_file: String,
    /// A command that starts the daemon again over its pods; empty: not measured.
    pub restart: Vec<String>,
    /// The image of the pods.
    pub image: String,
}

/// Reads the list of targets.
pub fn parse(text: &[u8]) -> Result<Vec<Target>> {
    let list: serde_json::Value = serde_json::from_slice(text)?;
    let word = |v: &serde_json::Value, key: &str| v[key].as_str().unwrap_or_default().to_string();
    let list = list.as_array().context("the targets are no list")?;
    Ok(list
        .iter()
        .map(|v| Target {
            name: word(v, "name"),
            socket: word(v, "socket"),
            handler: word(v, "handler"),
            pid_file: word(v, "pid_file"),
            image: word(v, "image"),
            restart: v["restart"].as_array().into_iter().flatten().filter_map(|w| w.as_str()).map(Into::into).collect(),
        })
        .collect())
}

impl Target {
    /// A client on a connection of its own.
    pub async fn runtime(&self) -> Result<RuntimeServiceClient<Channel>> {
        Ok(RuntimeServiceClient::new(self.channel().await?))
    }

    /// Pulls the image, so that no pod waits for it.
    pub async fn pull(&self) -> Result<()> {
        let image = Some(ImageSpec { image: self.image.clone(), ..ImageSpec::default() });
        let request = PullImageRequest { image, ..PullImageRequest::default() };
        ImageServiceClient::new(self.channel().await?).pull_image(request).await.context("pull")?;
        Ok(())
    }

    /// The daemon's pid.
    pub fn pid(&self) -> Result<i32> {
        let text = std::fs::read_to_string(&self.pid_file).with_context(|| format!("read {}", self.pid_file))?;
        Ok(text.trim().parse()?)
    }

    /// Waits until the runtime lists `pods` sandboxes, looking every millisecond.
    pub async fn until_listed(&self, pods: usize, deadline: Instant) -> Result<()> {
        loop {
            if let Ok(mut client) = self.runtime().await
                && let Ok(list) = client.list_pod_sandbox(ListPodSandboxRequest::default()).await
                && list.get_ref().items.iter().filter(|p| p.state == 0).count() >= pods
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} does not list its {pods} pods", self.name);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn channel(&self) -> Result<Channel> {
        let socket = self.socket.clone();
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        endpoint.connect_with_connector(connect).await.with_context(|| format!("connect to {}", self.socket))
    }
}
