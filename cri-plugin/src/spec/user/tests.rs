//! Tables for `resolve`.

use super::*;
use crate::spec::tests::fixture;
use cleat_proto::cri::v1::Int64Value;
use proptest::prelude::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:34:w:/var/www:/bin/false\nu1000:x:1000:1001::/:\n\
                      7:x:77:78::/:\n";
const GROUP: &str = "root:x:0:root\nstaff:x:50:www-data,root\nextra:x:50000:u1000,other\nwww:x:34:\n";

fn accounts() -> Accounts {
    Accounts::new(PASSWD.into(), GROUP.into()).expect("small")
}

#[derive(Default)]
struct Asked {
    user: Option<i64>,
    name: &'static str,
    group: Option<i64>,
    supplemental: Vec<i64>,
    strict: bool,
}

fn run(asked: &Asked, user: &str) -> Result<Identity> {
    let config = fixture::with_security(|s| {
        s.run_as_user = asked.user.map(|value| Int64Value { value });
        s.run_as_group = asked.group.map(|value| Int64Value { value });
        s.run_as_username = asked.name.into();
        s.supplemental_groups = asked.supplemental.clone();
        s.supplemental_groups_policy = i32::from(asked.strict);
    });
    resolve(&config, &fixture::image(&serde_json::json!({ "User": user }).to_string()), &accounts())
}

fn ids(identity: &Identity) -> (u32, u32, &[u32]) {
    (identity.uid, identity.gid, &identity.additional_gids)
}

#[test]
fn the_images_user() {
    for (user, wanted) in [
        ("", (0, 0, &[0, 50][..])),
        ("0", (0, 0, &[0, 50])),
        ("root", (0, 0, &[0, 50])),
        ("www-data", (33, 34, &[34, 50])),
        ("33", (33, 34, &[34, 50])),
        ("1002", (1002, 0, &[0])),
        ("1003:1004", (1003, 1004, &[1004])),
        ("www-data:1004", (33, 1004, &[50, 1004])),
        ("www-data:staff", (33, 50, &[50])),
        (":staff", (0, 50, &[0, 50])),
        ("1000:", (1000, 1001, &[1001, 50000])),
        ("7", (7, 0, &[0])),
        ("4294967294", (4_294_967_294, 0, &[0])),
    ] {
        let identity = run(&Asked::default(), user).unwrap_or_else(|e| panic!("{user:?}: {e}"));
        assert_eq!(ids(&identity), wanted, "{user:?}");
    }
}

#[test]
fn numbers_are_never_names_and_names_must_exist() {
    for (user, words) in [
        ("4294967295", "4294967294"),
        ("4294967296", "4294967294"),
        ("99999999999999999999", "99999999999999999999"),
        ("-1", "-1"),
        ("0:4294967296", "4294967294"),
        ("nobody", "\"nobody\""),
        ("root:nogroup", "\"nogroup\""),
        ("a:b:c", "\"b:c\""),
        ("a\nb", "no name"),
    ] {
        let e = run(&Asked::default(), user).expect_err(user).to_string();
        assert!(e.contains(words) && e.contains("image's User"), "{user:?}: {e}");
    }
}

#[test]
fn the_clients_choice() {
    for (asked, wanted) in [
        (Asked { user: Some(33), ..Asked::default() }, (33, 34, &[34, 50][..])),
        (Asked { user: Some(5000), ..Asked::default() }, (5000, 0, &[0])),
        (Asked { name: "www-data", ..Asked::default() }, (33, 34, &[34, 50])),
        (Asked { name: "7", ..Asked::default() }, (77, 78, &[78])),
        (Asked { user: Some(1000), group: Some(3000), ..Asked::default() }, (1000, 3000, &[3000, 50000])),
        (
            Asked { user: Some(1000), group: Some(3000), supplemental: vec![4000], ..Asked::default() },
            (1000, 3000, &[3000, 4000, 50000]),
        ),
        (
            Asked {
                user: Some(1000),
                group: Some(3000),
                supplemental: vec![4000, 4000],
                strict: true,
                ..Asked::default()
            },
            (1000, 3000, &[3000, 4000]),
        ),
    ] {
        assert_eq!(ids(&run(&asked, "www-data:staff").expect("identity")), wanted);
    }
}

#[test]
fn the_clients_mistakes_name_their_field() {
    for (asked, field) in [
        (Asked { user: Some(-1), ..Asked::default() }, "run_as_user"),
        (Asked { user: Some(1 << 32), ..Asked::default() }, "run_as_user"),
        (Asked { group: Some(1), ..Asked::default() }, "run_as_group"),
        (Asked { user: Some(1), group: Some(-2), ..Asked::default() }, "run_as_group"),
        (Asked { user: Some(1), name: "root", ..Asked::default() }, "run_as_username"),
        (Asked { name: "absent", ..Asked::default() }, "absent"),
        (Asked { supplemental: vec![1, -5], ..Asked::default() }, "supplemental_groups[1]"),
    ] {
        let e = run(&asked, "").expect_err(field).to_string();
        assert!(e.contains("linux.security_context") && e.contains(field), "{e}");
    }
}

#[test]
fn an_unknown_policy_is_refused() {
    let config = fixture::with_security(|s| s.supplemental_groups_policy = 2);
    let e = resolve(&config, &fixture::image("{}"), &accounts()).expect_err("policy").to_string();
    assert!(e.contains("supplemental_groups_policy"), "{e}");
}

#[test]
fn names_without_account_files_are_an_error() {
    let image = fixture::image(r#"{"User":"root"}"#);
    let empty = Accounts::default();
    assert!(resolve(&ContainerConfig::default(), &image, &empty).is_err());
    let numeric = resolve(&ContainerConfig::default(), &fixture::image(r#"{"User":"5"}"#), &empty).expect("number");
    assert_eq!((ids(&numeric), &numeric.username), ((5, 0, &[0][..]), &None));
}

proptest! {
    #[test]
    fn any_image_user_is_an_identity_or_an_error(user in "\\PC{0,24}|[0-9:+-]{0,14}") {
        if let Ok(identity) = run(&Asked::default(), &user) {
            prop_assert!(identity.additional_gids.contains(&identity.gid));
            let first = user.split(':').next().unwrap_or_default();
            if !first.is_empty() && first.bytes().all(|b| b.is_ascii_digit()) {
                prop_assert_eq!(first.parse::<u64>().ok(), Some(u64::from(identity.uid)));
            }
        }
    }
}
