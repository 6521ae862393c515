//! Bad input: a clear error, and nothing is left.

use anyhow::{Result, ensure};
use cleat_tests::v1::{ContainerConfig, ContainerFilter, ContainerState, Mount, PodSandboxConfig};
use cleat_tests::{Cri, Reply, container, node, pod};
use tonic::Code;

/// Checks that a call was refused with one of the codes and that the words name what is wrong.
fn refused<T: std::fmt::Debug>(what: &str, reply: Reply<T>, codes: &[Code], words: &[&str]) -> Result<()> {
    let status = match reply {
        Ok(answer) => anyhow::bail!("{what} was not refused but answered {answer:?}"),
        Err(status) => status,
    };
    ensure!(codes.contains(&status.code()), "{what}: {status:?}");
    for word in words {
        ensure!(status.message().contains(word), "{what}: {word:?} is not in {:?}", status.message());
    }
    Ok(())
}

#[tokio::test]
async fn images_that_are_no_images() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    let nowhere = format!("busybox@sha256:{}", "12".repeat(32));
    for (image, codes, word) in [
        ("test/no-such-image", &[Code::NotFound][..], "test/no-such-image"),
        ("busybox:no-such-tag", &[Code::NotFound], "no-such-tag"),
        (&nowhere, &[Code::NotFound], "1212"),
        ("", &[Code::InvalidArgument], ""),
        ("library/UPPER", &[Code::InvalidArgument], "library/UPPER"),
        ("busybox:", &[Code::InvalidArgument], "busybox:"),
        ("a b", &[Code::InvalidArgument], "a b"),
        ("../../etc/passwd", &[Code::InvalidArgument], "../../etc/passwd"),
        ("busybox@sha256:12", &[Code::InvalidArgument], "sha256:12"),
        ("busybox@md5:d41d8cd98f00b204e9800998ecf8427e", &[Code::InvalidArgument], "md5"),
    ] {
        refused(image, cri.pull(image).await, codes, &[word])?;
    }
    assert_eq!(cri.list_images().await?, []);
    Ok(())
}

#[tokio::test]
async fn images_whose_content_is_wrong() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    for name in ["wrong-diff-id", "truncated", "garbage", "foreign-only"] {
        let image = format!("test/{name}");
        let reply = cri.pull(&image).await;
        ensure!(reply.is_err(), "{image} was accepted as {reply:?}");
        assert_eq!(cri.image(&image).await?, None, "{image} is listed");
    }
    // A layer that climbs out of its root is refused or held inside it; the host does not get the file either way.
    let _ = cri.pull("test/climbing").await;
    ensure!(!std::path::Path::new("/tmp/cleat-escaped").exists(), "a layer wrote to the host's /tmp");
    cri.pull("busybox").await?;
    Ok(())
}

#[tokio::test]
async fn sandboxes_that_make_no_sense() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    let good = pod("refused", &node.path("logs"));
    let known = cri.run_pod(&good, "no-such-handler").await;
    refused("handler", known, &[Code::NotFound, Code::InvalidArgument], &["no-such-handler", "runc"])?;
    let bad = |change: fn(&mut PodSandboxConfig)| {
        let mut config = good.clone();
        change(&mut config);
        config
    };
    for (what, config) in [
        ("no metadata", bad(|c| c.metadata = None)),
        ("an empty name", bad(|c| c.metadata.as_mut().expect("metadata").name.clear())),
        ("a relative log directory", bad(|c| c.log_directory = "logs".into())),
        ("a log directory with ..", bad(|c| c.log_directory = "/tmp/../etc".into())),
        ("a hostname with a newline", bad(|c| c.hostname = "a\nb".into())),
        (
            "a sysctl with a newline",
            bad(|c| {
                let linux = c.linux.as_mut().expect("linux");
                linux.sysctls.insert("kernel.shm_rmid_forced".into(), "1\nkernel.core_pattern=|/bin/sh".into());
            }),
        ),
        (
            "a sysctl of the whole machine",
            bad(|c| {
                c.linux.as_mut().expect("linux").sysctls.insert("kernel.core_pattern".into(), "core".into());
            }),
        ),
    ] {
        refused(what, cri.run_pod(&config, "").await, &[Code::InvalidArgument], &[])?;
    }
    for id in ["", "short", "../../../etc/passwd", &"0123456789ABCDEF".repeat(4)] {
        let codes = &[Code::NotFound, Code::InvalidArgument];
        refused("an id", cri.pod_status(id).await, codes, &[])?;
        refused("an id", cri.status(id).await, codes, &[])?;
    }
    assert_eq!(cri.list_pods().await?, []);
    assert_eq!(node.residue(), [] as [String; 0]);
    Ok(())
}

#[tokio::test]
async fn containers_that_make_no_sense() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    let config = pod("refused", &node.path("logs"));
    let sandbox = cri.run_pod(&config, "").await?;
    let base = container("bad", "busybox", &["true"]);
    let unknown = "0123456789abcdef".repeat(4);
    refused("unknown sandbox", cri.create(&unknown, &base, &config).await, &[Code::NotFound], &[&unknown])?;
    let image = container("bad", "test/not-pulled", &["true"]);
    refused("unknown image", cri.create(&sandbox, &image, &config).await, &[Code::NotFound], &["test/not-pulled"])?;
    let mount = |host: &str, inside: &str| Mount {
        host_path: host.into(),
        container_path: inside.into(),
        ..Default::default()
    };
    let bad = |change: &dyn Fn(&mut ContainerConfig)| {
        let mut config = base.clone();
        change(&mut config);
        config
    };
    for (what, wrong) in [
        ("log_path", bad(&|c| c.log_path = "../../escaped.log".into())),
        ("log_path", bad(&|c| c.log_path = "/tmp/absolute.log".into())),
        ("mounts", bad(&|c| c.mounts.push(mount("relative/path", "/mnt")))),
        ("mounts", bad(&|c| c.mounts.push(mount("/etc/passwd/below-a-file", "/mnt")))),
        ("mounts", bad(&|c| c.mounts.push(mount("/tmp", "relative")))),
        ("metadata", bad(&|c| c.metadata = None)),
        ("image", bad(&|c| c.image = None)),
    ] {
        let codes = &[Code::InvalidArgument];
        refused(what, cri.create(&sandbox, &wrong, &config).await, codes, &[])?;
    }
    cri.pull("test/user-unknown").await?;
    let user = container("bad", "test/user-unknown", &["true"]);
    refused(
        "user",
        cri.create(&sandbox, &user, &config).await,
        &[Code::InvalidArgument, Code::NotFound],
        &["nosuchuser"],
    )?;
    assert_eq!(cri.list(ContainerFilter::default()).await?, []);
    cri.remove_all_pods().await?;
    assert_eq!(node.residue(), [] as [String; 0]);
    Ok(())
}

async fn start_fails(cri: &Cri, sandbox: &str, config: &PodSandboxConfig, command: &str) -> Result<()> {
    let id = cri.create(sandbox, &container("missing", "busybox", &[command]), config).await?;
    let reply = cri.start(&id).await;
    let Err(status) = reply else { anyhow::bail!("{command} was started") };
    // The runtime's own words: runc and crun word it differently, both name the program.
    ensure!(status.message().contains("no-such-command"), "{status:?}");
    let after = cri.status(&id).await?;
    assert_eq!(after.state(), ContainerState::ContainerExited);
    ensure!(after.exit_code != 0 && !after.reason.is_empty(), "{after:?}");
    cri.remove(&id).await?;
    Ok(())
}

#[tokio::test]
async fn a_command_that_does_not_exist() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    let config = pod("missing", &node.path("logs"));
    for handler in ["runc", "crun"] {
        let sandbox = cri.run_pod(&config, handler).await?;
        for command in ["no-such-command", "/bin/no-such-command"] {
            start_fails(&cri, &sandbox, &config, command).await?;
        }
        cri.remove_all_pods().await?;
    }
    assert_eq!(node.residue(), [] as [String; 0]);
    Ok(())
}

#[tokio::test]
async fn names_in_use() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    let config = pod("twice", &node.path("logs"));
    // The same request, at once and afterwards: kubelet asks again after its own deadline.
    let (first, second) = tokio::join!(cri.run_pod(&config, ""), cri.run_pod(&config, ""));
    let sandbox = first?;
    assert_eq!(sandbox, second?);
    assert_eq!(sandbox, cri.run_pod(&config, "").await?);
    assert_eq!(cri.list_pods().await?.len(), 1);
    let mut other = config.clone();
    other.hostname = "another".into();
    refused("sandbox", cri.run_pod(&other, "").await, &[Code::AlreadyExists], &["twice", &sandbox])?;

    let wanted = container("main", "busybox", &["sleep", "1000"]);
    let (first, second) = tokio::join!(cri.create(&sandbox, &wanted, &config), cri.create(&sandbox, &wanted, &config));
    let id = first?;
    assert_eq!(id, second?);
    assert_eq!(id, cri.create(&sandbox, &wanted, &config).await?);
    assert_eq!(cri.list(ContainerFilter::default()).await?.len(), 1);
    let mut other = wanted.clone();
    other.command = vec!["true".into()];
    refused("container", cri.create(&sandbox, &other, &config).await, &[Code::AlreadyExists], &["main", &id])?;
    // The name is free again once its holder is gone.
    cri.remove(&id).await?;
    assert_ne!(id, cri.create(&sandbox, &other, &config).await?);
    cri.remove_all_pods().await?;
    assert_ne!(sandbox, cri.run_pod(&config, "").await?);
    Ok(())
}
