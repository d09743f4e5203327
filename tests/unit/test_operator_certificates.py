"""The certificates of a cluster: who signs, what they say, and when they are replaced."""

import base64
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.x509 import ExtensionOID, verification

from epd.vocabulary import WORKER_TLS_NAME
from epd_operator import certificates
from epd_operator.certificates import LEAF_LIFE, LEAF_RENEWAL, TRUST_SPREADS
from epd_operator.objects import Manifest

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def authority(secret: Manifest | None = None, at: datetime = NOW) -> Manifest:
    return {"data": certificates.new_authority(secret, "epd test", at)}


def leaf(signer: Manifest, at: datetime = NOW) -> Manifest:
    return {"data": certificates.new_leaf(signer, at)}


def certificate(secret: Manifest, name: str = "tls.crt") -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(secret["data"][name]))


def is_trusted(shown: Manifest, by: Manifest, at: datetime) -> bool:
    """Tell whether a pod that holds `by` accepts what another shows, by OpenSSL's own rules."""
    roots = x509.load_pem_x509_certificates(base64.b64decode(by["data"]["ca.crt"]))
    policy = verification.PolicyBuilder().store(verification.Store(roots)).time(at)
    verifier = policy.build_server_verifier(x509.DNSName(WORKER_TLS_NAME))
    try:
        verifier.verify(certificate(shown), [])
    except verification.VerificationError:
        return False
    return True


def test_a_leaf_serves_and_calls_under_the_one_name_of_all_pods() -> None:
    made = certificate(leaf(authority()))
    names = made.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    assert list(names) == [x509.DNSName(WORKER_TLS_NAME)]  # type: ignore[call-overload]
    uses = made.extensions.get_extension_for_oid(ExtensionOID.EXTENDED_KEY_USAGE).value
    assert len(list(uses)) == 2  # type: ignore[call-overload]


def test_pods_of_one_cluster_trust_each_other_and_no_other_cluster() -> None:
    ours, theirs = authority(), authority()
    one, other, stranger = leaf(ours), leaf(ours), leaf(theirs)
    assert is_trusted(one, other, NOW)
    assert not is_trusted(stranger, one, NOW)


def test_what_is_fresh_is_left_alone() -> None:
    signer = authority()
    shown = leaf(signer)
    assert not certificates.authority_is_due(signer, NOW + DAY)
    assert not certificates.leaf_is_due(shown, signer, NOW + DAY)


def test_a_leaf_is_replaced_a_month_before_it_expires() -> None:
    signer = authority()
    shown = leaf(signer)
    due = NOW + LEAF_LIFE - LEAF_RENEWAL
    assert not certificates.leaf_is_due(shown, signer, due - DAY)
    assert certificates.leaf_is_due(shown, signer, due)
    assert (
        certificate(leaf(signer, due)).not_valid_after_utc > certificate(shown).not_valid_after_utc
    )


def test_an_authority_that_is_replaced_never_leaves_a_pod_that_cannot_check() -> None:
    first = authority()
    before = leaf(first)
    later = NOW + timedelta(days=3650 - 365)
    assert certificates.authority_is_due(first, later)
    old = leaf(first, later - DAY)
    both = authority(first, later)
    # At once: pods are told of the successor, and the old one still signs.
    assert certificates.leaf_is_due(old, both, later)
    told = leaf(both, later)
    assert is_trusted(told, old, later)
    assert is_trusted(old, told, later)
    # Once all have heard of it: the successor signs.
    heard = later + TRUST_SPREADS + timedelta(minutes=6)
    assert certificates.leaf_is_due(told, both, heard)
    new = leaf(both, heard)
    assert is_trusted(new, told, heard)
    assert is_trusted(told, new, heard)
    assert not is_trusted(new, old, heard)
    assert not certificates.leaf_is_due(new, both, heard)
    assert before["data"]["ca.crt"] == first["data"]["ca.crt"]


def test_what_cannot_be_read_is_made_anew() -> None:
    broken = {"data": {"ca.crt": "AAAA", "ca.key": "AAAA", "tls.crt": "!", "tls.key": "AAAA"}}
    assert certificates.authority_is_due(broken, NOW)
    assert certificates.authority_is_due(None, NOW)
    assert certificates.leaf_is_due(broken, authority(), NOW)
    made = authority(broken)
    assert is_trusted(leaf(made), leaf(made), NOW)
