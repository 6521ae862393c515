//! Images in every form a registry hands out, and what containers see of them.

use anyhow::{Context, Result, ensure};
use cleat_tests::v1::{ImageFsInfoRequest, PodSandboxConfig};
use cleat_tests::{Cri, Node, container, node, pod, wait_for_line};

/// Runs a shell script in an image and returns what it printed.
async fn say(
    node: &Node,
    cri: &Cri,
    sandbox: &(String, PodSandboxConfig),
    image: &str,
    script: &str,
) -> Result<String> {
    let name = image.replace(['/', ':', '@'], "-");
    let id = cri
        .launch(&sandbox.0, &container(&name, image, &["sh", "-c", script]), &sandbox.1)
        .await
        .context(name.clone())?;
    let status = cri.wait_exit(&id).await?;
    let log = node.path(&format!("logs/images/{name}.log"));
    let lines = wait_for_line(&log, "done").await.with_context(|| format!("{status:?}"))?;
    cri.remove(&id).await?;
    std::fs::remove_file(&log)?;
    let texts: Vec<_> = lines.into_iter().map(|line| line.text).filter(|text| text != "done").collect();
    Ok(texts.join("\n"))
}

async fn sandbox(node: &Node, cri: &Cri) -> Result<(String, PodSandboxConfig)> {
    let config = pod("images", &node.path("logs"));
    Ok((cri.run_pod(&config, "").await?, config))
}

async fn every_form(node: Node) -> Result<()> {
    let cri = node.cri().await?;
    let sandbox = sandbox(&node, &cri).await?;
    for (image, form) in [
        ("test/oci", "oci"),
        ("test/zstd", "zstd"),
        ("test/plain", "plain"),
        ("test/docker", "docker"),
        ("test/index", "test/index"),
        ("test/docker-list", "test/docker-list"),
    ] {
        let id = cri.pull(image).await.context(image)?;
        let listed = cri.image(image).await?.context(image)?;
        assert_eq!(listed.id, id);
        assert_eq!(listed.repo_tags, [format!("docker.io/{image}:latest")]);
        ensure!(listed.size > 0 && listed.repo_digests.len() == 1, "{listed:?}");
        ensure!(listed.repo_digests[0].starts_with(&format!("docker.io/{image}@sha256:")), "{listed:?}");
        assert_eq!(say(&node, &cri, &sandbox, image, "cat /form; echo done").await?, form);
        // By digest it is the same image.
        assert_eq!(cri.pull(&listed.repo_digests[0]).await?, id);
    }
    Ok(())
}

#[tokio::test]
async fn every_form_on_overlay() -> Result<()> {
    every_form(node!("[images]\nsnapshotter = \"overlay\"\n")).await
}

#[tokio::test]
async fn every_form_on_native() -> Result<()> {
    every_form(node!("[images]\nsnapshotter = \"native\"\n")).await
}

#[tokio::test]
async fn whiteouts_opaque_folders_and_hard_links() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("test/layers").await?;
    let sandbox = sandbox(&node, &cri).await?;
    let script = "cd /t; find . | sort; cat replaced link; stat -c '%a %h %n' setuid sticky one two; echo done";
    let seen = say(&node, &cri, &sandbox, "test/layers", script).await?;
    let wanted = ". ./kept ./link ./one ./opaque ./opaque/above ./replaced ./setuid ./sticky ./top ./two";
    let mut wanted: Vec<&str> = wanted.split(' ').collect();
    wanted.extend(["new", "kept", "4755 1 setuid", "1777 2 sticky", "644 2 one", "644 2 two"]);
    assert_eq!(seen.lines().collect::<Vec<_>>(), wanted);
    Ok(())
}

#[tokio::test]
async fn the_user_an_image_asks_for() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    let sandbox = sandbox(&node, &cri).await?;
    for (image, wanted) in [
        ("busybox", "0 0"),
        ("test/user-uid", "1002 0"),
        ("test/user-username", "33 33"),
        ("test/user-uid-group", "1003 1004"),
        ("test/user-username-group", "33 1004"),
        ("test/user-groups", "1000 1000"),
    ] {
        cri.pull(image).await?;
        assert_eq!(say(&node, &cri, &sandbox, image, "echo $(id -u) $(id -g); echo done").await?, wanted, "{image}");
    }
    let groups = say(&node, &cri, &sandbox, "test/user-groups", "id -G; echo done").await?;
    ensure!(groups.split(' ').any(|group| group == "50000"), "{groups}");
    Ok(())
}

#[tokio::test]
async fn names_tags_and_removal() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    let id = cri.pull("busybox").await?;
    for name in ["busybox", "busybox:latest", "docker.io/library/busybox", "library/busybox:latest", &id] {
        assert_eq!(cri.image(name).await?.context(name.to_string())?.id, id);
    }
    assert_eq!(cri.image("test/oci").await?, None);
    let one = cri.pull("test/two-tags:1").await?;
    assert_eq!(one, cri.pull("test/two-tags:2").await?);
    let mut tags = cri.image("test/two-tags:1").await?.context("gone")?.repo_tags;
    tags.sort();
    assert_eq!(tags, ["docker.io/test/two-tags:1", "docker.io/test/two-tags:2"]);
    assert_eq!(cri.list_images().await?.len(), 2);
    // CRI: removing an image by any of its names removes all of it; what is not there counts as removed.
    for _ in 0..2 {
        cri.remove_image("test/two-tags:1").await?;
        assert_eq!(cri.image("test/two-tags:2").await?, None);
    }
    cri.remove_image(&id).await?;
    assert_eq!(cri.list_images().await?, []);
    Ok(())
}

#[tokio::test]
async fn fifty_pulls_at_once_are_one() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    let mut pulls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let cri = cri.clone();
        pulls.spawn(async move { cri.pull("test/layers").await });
    }
    let mut ids = std::collections::BTreeSet::new();
    while let Some(id) = pulls.join_next().await {
        ids.insert(id??);
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(cri.list_images().await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn the_image_filesystem_is_told() -> Result<()> {
    let node = node!();
    let mut cri = node.cri().await?;
    let empty = cri.images.image_fs_info(ImageFsInfoRequest {}).await?.into_inner().image_filesystems;
    cri.pull("busybox").await?;
    let full = cri.images.image_fs_info(ImageFsInfoRequest {}).await?.into_inner().image_filesystems;
    assert_eq!((empty.len(), full.len()), (1, 1));
    let mountpoint = &full[0].fs_id.as_ref().context("no fs_id")?.mountpoint;
    ensure!(std::path::Path::new(mountpoint).exists() && full[0].timestamp > 0, "{full:?}");
    ensure!(full[0].used_bytes.context("no used_bytes")?.value > 1_000_000, "{full:?}");
    Ok(())
}
