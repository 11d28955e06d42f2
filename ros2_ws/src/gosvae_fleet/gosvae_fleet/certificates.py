"""Certificates of the link: an authority of the fleet's own, and what it signs.

The common name of a certificate is the name by which the router knows its owner: ``router``,
``backend`` or a vehicle's name. Keys are on the curve P-256, as TLS 1.3 and small computers like
it.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gosvae_codec.draft import whole_file
from gosvae_common.errors import UsageError

AUTHORITY = "authority"
ROUTER = "router"
BACKEND = "backend"
REMEDY = "`gosvae certificates` makes one"

_MINUTES_BEFORE = 10
"""From when a certificate is valid, for clocks that are late."""


class CertificateError(UsageError):
    """A certificate is missing, expired, or not what it is used for."""


class Credentials(NamedTuple):
    """Files by which one side of the link proves who it is, and knows the others."""

    name: str
    """The common name."""
    authority: Path
    certificate: Path
    key: Path


def make_certificate(
    folder: Path, name: str, hosts: Sequence[str] = (), days: float = 365.0
) -> Path:
    """Write the certificate and key of `name`, and before it those of the authority if missing.

    Args:
        folder: where ``<name>.pem`` and ``<name>.key`` go. It holds ``authority.key``, which signs
            and belongs on no vehicle and no server.
        name: the common name.
        hosts: names and addresses at which others reach it; a router needs some.
        days: for which it is valid. An existing certificate of that name is replaced.

    Returns:
        The path of the certificate.

    Raises:
        CertificateError: the authority in the folder cannot be used.
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / f"{AUTHORITY}.pem").exists():
        _write(folder, AUTHORITY, *_sign(AUTHORITY, (), 10 * 365.0, None))
    issuer = _certificate(folder / f"{AUTHORITY}.pem")
    signer = _key(folder / f"{AUTHORITY}.key")
    if signer.public_key() != issuer.public_key():
        raise CertificateError(f"{folder / AUTHORITY}.key is not the key of {AUTHORITY}.pem")
    return _write(folder, name, *_sign(name, hosts, days, (issuer, signer)))


def check_credentials(folder: Path, name: str) -> Credentials:
    """Return the files of `name` in a folder, after checking them.

    Raises:
        CertificateError: a file is missing or damaged, the certificate is expired, not valid yet,
            not signed by the authority beside it, not the key's, or of another name.
    """
    paths = Credentials(
        name, folder / f"{AUTHORITY}.pem", folder / f"{name}.pem", folder / f"{name}.key"
    )
    authority, own = _certificate(paths.authority), _certificate(paths.certificate)
    for path, certificate in ((paths.authority, authority), (paths.certificate, own)):
        _check_dates(path, certificate)
    if common_name(own) != name:
        raise CertificateError(
            f"{paths.certificate} is for {common_name(own)!r}, not for {name!r}: {REMEDY}"
        )
    try:
        own.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CertificateError(
            f"{paths.certificate} is not signed by {paths.authority}: copy both from one folder"
        ) from error
    if _key(paths.key).public_key() != own.public_key():
        raise CertificateError(f"{paths.key} is not the key of {paths.certificate}: copy both")
    return paths


def common_name(certificate: x509.Certificate) -> str:
    """Return the common name of a certificate; empty if it has none."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _check_dates(path: Path, certificate: x509.Certificate) -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        raise CertificateError(f"{path} expired on {end:%Y-%m-%d %H:%M} UTC: {REMEDY}")
    if now < begin:
        raise CertificateError(
            f"{path} is valid from {begin:%Y-%m-%d %H:%M} UTC, but this clock says "
            f"{now:%Y-%m-%d %H:%M}: set the clock"
        )


def _sign(
    name: str,
    hosts: Sequence[str],
    days: float,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return a new certificate and its key; of an authority where there is no issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    early = datetime.timedelta(minutes=_MINUTES_BEFORE)
    end = now + datetime.timedelta(days=days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - early)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer:
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), *map(_host, hosts)]), critical=False
        ).add_extension(x509.ExtendedKeyUsage(uses if hosts else uses[:1]), critical=False)
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(
    folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> Path:
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with whole_file(folder / f"{name}.key") as new:
        new.touch(mode=0o600)
        new.write_bytes(private)
    path = folder / f"{name}.pem"
    with whole_file(path) as new:
        new.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise CertificateError(f"certificate {path}: {error.strerror}: {REMEDY}") from error
    except ValueError as error:
        raise CertificateError(f"{path} is no certificate in PEM: {REMEDY}") from error


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise CertificateError(f"key {path}: {os.strerror(error.errno or 0)}: {REMEDY}") from error
    except (ValueError, TypeError) as error:
        raise CertificateError(f"{path} is no private key in PEM without password") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{path} is no key on an elliptic curve: {REMEDY}")
    return key
