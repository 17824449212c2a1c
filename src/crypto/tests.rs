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

#[test]
fn a_certificate_lasts_thirty_days_and_is_renewed_at_half_of_that() {
    let ca = authority(7);
    let ours = credentials(&ca, &ca.issue(Role::Server, "a", NOW).expect("issued")).expect("ours");
    let days = |count: i64| Timestamp { seconds: NOW.seconds + count * 86_400, ..NOW };
    let validity = ours.validity();
    assert!(!validity.is_due(days(14)) && validity.is_due(days(15)));
    assert!(!validity.is_over(days(30)) && validity.is_over(days(31)));
    assert!(validity.until_due(days(14)) <= std::time::Duration::from_secs(86_400));

    let request = Request::from_der(&ours.request().expect("a request")).expect("verified");
    assert_eq!(request.key_hash(), ours.key_hash());
    let next = ca.sign(&request, Role::Server, "a", days(40)).expect("signed");
    ours.clone().replace(&next).expect("for the same key");
    assert!(!ours.validity().is_due(days(41)), "all clones have the new one");
}

#[test]
fn a_certificate_is_replaced_by_one_of_its_own_only() {
    let ca = authority(7);
    let issued = ca.issue(Role::Server, "a", NOW).expect("issued");
    let ours = credentials(&ca, &issued).expect("ours");
    let other = ca.issue(Role::Server, "b", NOW).expect("issued");
    assert!(matches!(ours.replace(&other.cert_pem), Err(CredentialsError::OtherMember { .. })));
    let same_name = ca.issue(Role::Server, "a", NOW).expect("issued");
    assert!(matches!(ours.replace(&same_name.cert_pem), Err(CredentialsError::Mismatch(_))));
    assert!(matches!(ours.replace("x"), Err(CredentialsError::Certificate(_))));
    ours.replace(&issued.cert_pem).expect("its own");
}

#[test]
fn an_authority_opens_with_its_sealing_key() {
    let ca = authority(7);
    let key = seal::SealKey::generate().expect("random");
    let sealed = ca.seal_key(&key).expect("sealed");
    let opened = Authority::unseal(ca.cert_pem(), &sealed, &key).expect("opened");
    assert_eq!(opened.key_pem(), ca.key_pem());
    let other = seal::SealKey::generate().expect("random");
    let refused = Authority::unseal(ca.cert_pem(), &sealed, &other);
    assert!(matches!(refused, Err(AuthorityError::Sealed(_))));
    let theirs = authority(8);
    let refused = Authority::unseal(theirs.cert_pem(), &sealed, &key);
    assert!(matches!(refused, Err(AuthorityError::KeyMismatch)));
}

#[test]
fn a_request_for_another_key_than_it_was_made_for_is_refused() {
    let der = NewKey::generate().expect("a key").request().expect("a request");
    let key = Request::from_der(&der).expect("as it was made").key_hash();
    for at in 0..der.len() {
        let mut tampered = der.clone();
        tampered[at] ^= 1;
        // How the signature is wrapped is not signed. What it is about is.
        let other = Request::from_der(&tampered).ok().filter(|read| read.key_hash() != key);
        assert!(other.is_none(), "byte {at}");
    }
}

#[test]
fn names_are_as_like_as_possible() {
    for (text, name) in [
        ("host1", "host1"),
        ("host1.example.org", "host1"),
        ("-a b_c-", "a-b_c"),
        ("", "node"),
        ("...", "node"),
        ("h\u{f6}st", "h-st"),
    ] {
        assert_eq!(Identity::name_like(text), name, "{text:?}");
    }
    assert_eq!(Identity::name_like(&"x".repeat(100)).len(), 48);
}
