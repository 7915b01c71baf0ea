"""Signed URLs of the folder store, and the secret that signs them."""

import errno
import os
import stat
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import StoreConfigurationError, UrlExpiredError, UrlSignatureError
from cluster.storage import FolderImageStore, FolderStoreOptions
from cluster.storage.signing import load_secret, sign_key, verify_signature

KEY = "images/2026/01/09/img_01/0.png"


@pytest.fixture
def options(tmp_path: Path) -> FolderStoreOptions:
    return FolderStoreOptions(folder=tmp_path / "store", base_url="http://127.0.0.1:8000")


@pytest.fixture
def store(options: FolderStoreOptions) -> FolderImageStore:
    return FolderImageStore(options)


def sign(store: FolderImageStore, lifetime_s: int = 60) -> tuple[int, str]:
    query = parse_qs(urlsplit(store.sign(KEY, lifetime_s=lifetime_s).url).query)
    return int(query["expires"][0]), query["signature"][0]


def read_secret(options: FolderStoreOptions) -> bytes:
    """Run in a process of its own: return the secret that all of them must share."""
    FolderImageStore(options).check()
    return load_secret(options.folder)


def test_a_url_names_the_key_below_the_base_url(options: FolderStoreOptions) -> None:
    store = FolderImageStore(replace(options, base_url="https://example.org/zimage/"))
    signed = store.sign(KEY, lifetime_s=60)
    assert signed.url.startswith(f"https://example.org/zimage/v1/files/{KEY}?expires=")
    assert f"expires={signed.expires_at}&" in signed.url


def test_a_signed_url_is_good_until_it_expires(store: FolderImageStore) -> None:
    expires_at, signature = sign(store)
    store.verify(KEY, expires_at, signature, now=expires_at - 1)
    with pytest.raises(UrlExpiredError, match="expired 5 s ago"):
        store.verify(KEY, expires_at, signature, now=expires_at + 5)


@pytest.mark.parametrize(("age_s", "told"), [(0, 1), (0.4, 1), (1.4, 2)])
def test_a_url_never_expired_0_s_ago(store: FolderImageStore, age_s: float, told: int) -> None:
    expires_at, signature = sign(store)
    with pytest.raises(UrlExpiredError, match=f"expired {told} s ago"):
        store.verify(KEY, expires_at, signature, now=expires_at + age_s)


def test_another_key_needs_another_signature(store: FolderImageStore) -> None:
    expires_at, signature = sign(store)
    with pytest.raises(UrlSignatureError):
        store.verify(KEY.replace("0.png", "1.png"), expires_at, signature, now=0)


def test_a_later_expiry_needs_another_signature(store: FolderImageStore) -> None:
    expires_at, signature = sign(store)
    with pytest.raises(UrlSignatureError):
        store.verify(KEY, expires_at + 1, signature, now=0)


@pytest.mark.parametrize("signature", ["", "0" * 64, "é", "\ud800"])
def test_a_made_up_signature_is_refused(store: FolderImageStore, signature: str) -> None:
    with pytest.raises(UrlSignatureError):
        store.verify(KEY, 2**40, signature, now=0)


@given(st.binary(min_size=32), st.binary(min_size=32), st.text(), st.integers(1, 2**40))
def test_only_the_secret_that_signed_verifies(
    secret: bytes, other: bytes, key: str, expires_at: int
) -> None:
    clean = key.encode("utf-8", "replace").decode()
    signature = sign_key(secret, clean, expires_at)
    verify_signature(secret, clean, expires_at, signature, now=0)
    with pytest.raises(UrlSignatureError):
        verify_signature(other + b"x", clean, expires_at, signature, now=0)


@pytest.mark.parametrize("lifetime_s", [0, -1, 7 * 24 * 3600 + 1])
def test_a_url_lives_up_to_seven_days(store: FolderImageStore, lifetime_s: int) -> None:
    with pytest.raises(ValueError, match=r"lifetime_s must be in \[1, 604800\]"):
        store.sign(KEY, lifetime_s=lifetime_s)


def test_a_given_secret_signs_alike_in_any_folder(
    options: FolderStoreOptions, tmp_path: Path
) -> None:
    given_secret = replace(options, secret="s" * 32)
    elsewhere = replace(given_secret, folder=tmp_path / "elsewhere")
    expires_at, signature = sign(FolderImageStore(given_secret))
    FolderImageStore(elsewhere).verify(KEY, expires_at, signature, now=0)


def test_the_drawn_secret_is_the_owners_alone(
    store: FolderImageStore, options: FolderStoreOptions
) -> None:
    store.check()
    secret = options.folder / ".signing-secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert len(secret.read_bytes()) == 64


def test_a_secret_that_others_can_read_is_refused(
    store: FolderImageStore, options: FolderStoreOptions
) -> None:
    store.check()
    (options.folder / ".signing-secret").chmod(0o644)
    with pytest.raises(StoreConfigurationError, match="must be closed to others, got 644"):
        store.check()


def test_a_secret_that_its_group_can_use_is_taken_with_one_warning(
    store: FolderImageStore, options: FolderStoreOptions, caplog: pytest.LogCaptureFixture
) -> None:
    store.check()
    path = options.folder / ".signing-secret"
    path.chmod(0o660)

    expires_at, signature = sign(store)
    store.verify(KEY, expires_at, signature, now=0)

    assert caplog.messages == [f"the group of {path} can use it too, its mode is 660"]


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", link)


@pytest.mark.usefixtures("no_links")
def test_a_secret_is_drawn_where_there_are_no_hard_links(options: FolderStoreOptions) -> None:
    secret = read_secret(options)
    path = options.folder / ".signing-secret"

    assert secret == path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(options.folder.glob("*.part")) == []


def test_a_secret_that_is_just_being_written_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / ".signing-secret"
    path.touch(0o600)
    writer = threading.Timer(0.1, path.write_bytes, [b"s" * 64])
    writer.start()
    try:
        assert load_secret(tmp_path) == b"s" * 64
    finally:
        writer.join()


def race_for_secrets(folder: Path) -> list[int]:
    """Let four threads ask ten folders for their first secret; return how many each got."""
    barrier = threading.Barrier(4)
    folders = [folder / str(number) for number in range(10)]

    def race(folder: Path) -> bytes:
        folder.mkdir(exist_ok=True)
        barrier.wait()
        return load_secret(folder)

    with ThreadPoolExecutor(4) as pool:
        return [len(set(pool.map(race, [folder] * 4))) for folder in folders]


def test_racers_for_the_first_secret_share_one(tmp_path: Path) -> None:
    assert race_for_secrets(tmp_path) == [1] * 10


@pytest.mark.usefixtures("no_links")
def test_racers_for_the_first_secret_share_one_without_hard_links_too(tmp_path: Path) -> None:
    assert race_for_secrets(tmp_path) == [1] * 10


def test_processes_that_start_together_share_one_secret(options: FolderStoreOptions) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        secrets = set(pool.map(read_secret, [options] * 16))
    assert len(secrets) == 1
    assert list(options.folder.glob("*.part")) == []


def test_a_short_secret_is_refused(options: FolderStoreOptions) -> None:
    with pytest.raises(StoreConfigurationError, match="at least 32 bytes, got 5"):
        replace(options, secret="short")


def test_a_secret_that_is_replaced_signs_from_then_on(options: FolderStoreOptions) -> None:
    first = read_secret(options)
    path = options.folder / ".signing-secret"
    path.unlink()

    second = read_secret(options)

    assert second != first
    assert second == path.read_bytes()
