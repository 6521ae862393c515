//! ImageService: one function per RPC.

use std::collections::BTreeMap;

use cleat_proto::cri::v1::image_service_server::ImageService;
use cleat_proto::cri::v1::*;
use tonic::{Request, Response, Status};

use super::{Service, convert, owned};
use crate::images::{self, Pull};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ImageService for Service {
    type StreamImagesStream = tonic::codegen::BoxStream<StreamImagesResponse>;

    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        let name = request.into_inner().filter.and_then(|f| f.image).map(|spec| spec.image).unwrap_or_default();
        let images = if name.is_empty() {
            self.daemon.images.list().await?
        } else {
            self.daemon.images.get(&name).await?.into_iter().collect()
        };
        Ok(Response::new(ListImagesResponse { images: images.into_iter().map(convert::image).collect() }))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        let request = request.into_inner();
        let name = named(request.image)?;
        let Some(image) = self.daemon.images.get(&name).await? else {
            return Ok(Response::new(ImageStatusResponse::default()));
        };
        let mut info = BTreeMap::new();
        if request.verbose {
            let rootfs = self.daemon.images.rootfs(&image.id).await?;
            let value = serde_json::json!({ "chainID": rootfs.chain_id, "imageSpec": rootfs.config.as_ref() });
            info.insert("info".into(), value.to_string());
        }
        Ok(Response::new(ImageStatusResponse { image: Some(convert::image(image)), info }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let request = request.into_inner();
        let spec = request.image.unwrap_or_default();
        let pull = Pull { reference: spec.image, auth: request.auth.map(auth), runtime_handler: spec.runtime_handler };
        // Not owned: the pull itself is shared and ends when nobody waits for it any more.
        let id = self.daemon.images.pull(pull).await?;
        Ok(Response::new(PullImageResponse { image_ref: id.to_string() }))
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        let name = named(request.into_inner().image)?;
        let daemon = self.daemon.clone();
        owned(async move { daemon.images.remove(&name).await }).await?;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        let usage = self.daemon.images.usage().await?;
        let usage = FilesystemUsage {
            timestamp: crate::clock::now(),
            fs_id: Some(FilesystemIdentifier { mountpoint: usage.path.display().to_string() }),
            used_bytes: Some(UInt64Value { value: usage.bytes }),
            inodes_used: Some(UInt64Value { value: usage.inodes }),
        };
        let (image_filesystems, container_filesystems) = (vec![usage.clone()], vec![usage]);
        Ok(Response::new(ImageFsInfoResponse { image_filesystems, container_filesystems }))
    }

    async fn stream_images(&self, _: Request<StreamImagesRequest>) -> Answer<Self::StreamImagesStream> {
        Err(super::runtime::not_there("StreamImages"))
    }
}

fn named(spec: Option<ImageSpec>) -> Result<String, Status> {
    match spec.map(|s| s.image) {
        Some(name) if !name.is_empty() => Ok(name),
        _ => Err(Status::invalid_argument("invalid image: it is empty")),
    }
}

fn auth(auth: AuthConfig) -> images::Auth {
    images::Auth {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    }
}
