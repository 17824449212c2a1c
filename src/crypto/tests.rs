//! Certificates of several clusters and roles, put together rightly and wrongly.

use super::*;
use crate::types::{ClusterId, Timestamp};

const NOW: Timestamp = Timestamp { seconds: 1_790_000_000, nanos: 0 };

fn authority(cluster: u128) -> Authority {
    Authority::create(ClusterId(cluster), NOW).expect("a new authority")
}

fn credentials(ca: &Authority, issued: &Issued) -> Result<Credentials, CredentialsError> {
    Credentials::from_pem(ca.cert_pem(), &issued.cert_pem, &issued.key_pem)
}

#[test]
fn a_certificate_says_cluster_role_and_name() {
    let ca = authority(7);
    for role in Role::ALL {
        let issued = ca.issue(role, "node-1", NOW).expect("issued");
        let identity = credentials(&ca, &issued).expect("ours").identity().clone();
        assert_eq!(identity, Identity { cluster: ClusterId(7), role, name: "node-1".into() });
    }
}

#[test]
fn an_authority_reads_back_and_issues_again() {
    let ca = authority(7);
    let again = Authority::from_pem(ca.cert_pem(), &ca.key_pem()).expect("read back");
    assert_eq!(again.cluster(), ClusterId(7));
    let issued = again.issue(Role::Server, "late", NOW).expect("issued");
    credentials(&ca, &issued).expect("the old certificate goes with the new member");
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let (ours, theirs) = (authority(7), authority(8));
    let a = ours.issue(Role::Server, "a", NOW).expect("issued");
    let b = ours.issue(Role::Server, "b", NOW).expect("issued");
    assert!(matches!(credentials(&theirs, &a), Err(CredentialsError::OtherCluster { .. })));
    let mixed = Issued { cert_pem: a.cert_pem.clone(), key_pem: b.key_pem };
    assert!(matches!(credentials(&ours, &mixed), Err(CredentialsError::Mismatch(_))));
    assert!(matches!(
        Authority::from_pem(ours.cert_pem(), &theirs.key_pem()),
        Err(AuthorityError::KeyMismatch)
    ));
    assert!(matches!(
        Credentials::from_pem(&a.cert_pem, &a.cert_pem, &a.key_pem),
        Err(CredentialsError::Authority(IdentityError::NotOurs))
    ));
    assert!(matches!(
        Credentials::from_pem(ours.cert_pem(), "not PEM", &a.key_pem),
        Err(CredentialsError::Certificate(IdentityError::Unreadable))
    ));
    assert!(matches!(
        Credentials::from_pem(ours.cert_pem(), &a.cert_pem, "not PEM"),
        Err(CredentialsError::Key)
    ));
}

#[test]
fn names_that_could_be_read_as_something_else_are_refused() {
    let ca = authority(7);
    for name in ["", "a.monitor", "-a", "a-", "a b", "*", &"x".repeat(64)] {
        assert!(
            matches!(ca.issue(Role::Client, name, NOW), Err(AuthorityError::Name(_))),
            "{name:?}"
        );
    }
    ca.issue(Role::Client, &"x".repeat(63), NOW).expect("the longest name");
}

#[test]
fn credentials_never_print_their_key() {
    let ca = authority(7);
    let issued = ca.issue(Role::Client, "admin", NOW).expect("issued");
    let shown = format!("{:?}", credentials(&ca, &issued).expect("ours"));
    assert!(shown.contains("admin") && !shown.contains("PRIVATE"), "{shown}");
}
