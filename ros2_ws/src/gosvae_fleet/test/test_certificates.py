from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="the extra uplink is not installed")

from gosvae_fleet.certificates import (
    CertificateError,
    check_credentials,
    make_certificate,
)


def test_made_ones_are_accepted_and_keys_are_private(folder: Path) -> None:
    found = check_credentials(folder, "v01")
    assert found.certificate == folder / "v01.pem"
    for path in folder.glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def copied(folder: Path, target: Path, **names: str) -> Path:
    """Copy files of v01, some of them from others."""
    target.mkdir()
    for name in ("authority.pem", "v01.pem", "v01.key"):
        shutil.copy(folder / names.get(name.replace(".", "_"), name), target / name)
    return target


def refusal(folder: Path, name: str = "v01") -> str:
    with pytest.raises(CertificateError) as caught:
        check_credentials(folder, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_wrong_is_said_in_one_line(folder: Path, tmp_path: Path) -> None:
    assert "v05.pem: No such file" in refusal(folder, "v05")
    assert "is for 'v02', not for 'v01'" in refusal(
        copied(folder, tmp_path / "a", v01_pem="v02.pem")
    )
    assert "v01.key is not the key of" in refusal(copied(folder, tmp_path / "b", v01_key="v02.key"))
    other = tmp_path / "other"
    make_certificate(other, "v01")
    shutil.copy(folder / "authority.pem", other / "authority.pem")
    assert "is not signed by" in refusal(other)
    odd = copied(folder, tmp_path / "c")
    (odd / "v01.pem").write_text("nothing")
    assert "v01.pem is no certificate in PEM" in refusal(odd)
    odd = copied(folder, tmp_path / "d")
    (odd / "v01.key").write_text("nothing")
    assert "v01.key is no private key" in refusal(odd)


def test_expired_one_is_named_with_its_date(folder: Path, tmp_path: Path) -> None:
    for name in ("authority.pem", "authority.key"):
        shutil.copy(folder / name, tmp_path / name)
    make_certificate(tmp_path, "v01", days=-1.0)
    assert "v01.pem expired on 2" in refusal(tmp_path)


def test_renewal_replaces_the_certificate_and_keeps_the_authority(tmp_path: Path) -> None:
    first = make_certificate(tmp_path, "v01").read_bytes()
    authority = (tmp_path / "authority.pem").read_bytes()
    assert make_certificate(tmp_path, "v01").read_bytes() != first
    assert (tmp_path / "authority.pem").read_bytes() == authority
    check_credentials(tmp_path, "v01")


def test_authority_without_its_key_signs_nothing(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "authority.pem", tmp_path)
    with pytest.raises(CertificateError, match=r"key .*authority.key: No such file"):
        make_certificate(tmp_path, "v01")
    assert not (tmp_path / "v01.pem").exists()
