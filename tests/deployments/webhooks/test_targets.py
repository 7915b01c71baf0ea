"""Which URLs and addresses may be called on a caller's behalf."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import InvalidFieldError
from deployments.webhooks.targets import Target, TargetRules, is_public, parse_target

RULES = TargetRules(frozenset({"hooks.example.com", "ports.example.com:8443"}))


@pytest.mark.parametrize(
    ("url", "target"),
    [
        (
            "https://hooks.example.com/x/y?z=1",
            Target("https", "hooks.example.com", 443, "/x/y?z=1"),
        ),
        ("https://hooks.example.com:443", Target("https", "hooks.example.com", 443, "/")),
        ("https://HOOKS.example.com/", Target("https", "hooks.example.com", 443, "/")),
        ("https://ports.example.com:8443/a", Target("https", "ports.example.com", 8443, "/a")),
        ("https://hooks.example.com/a#b", Target("https", "hooks.example.com", 443, "/a")),
    ],
)
def test_a_url_of_an_allowed_host_is_taken_apart(url: str, target: Target) -> None:
    assert parse_target(url, RULES) == target


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.com",
        "//hooks.example.com/",
        "http://hooks.example.com/",
        "ftp://hooks.example.com/",
        "file:///etc/passwd",
        "https://example.com/",
        "https://evil-hooks.example.com/",
        "https://hooks.example.com.evil.com/",
        "https://hooks.example.com:8443/",
        "https://ports.example.com/",
        "https://hooks.example.com@evil.com/",
        "https://user:secret@hooks.example.com/",
        "https://evil.com#hooks.example.com",
        "https://evil.com\\@hooks.example.com/",
        "https://hooks.example.com\\.evil.com/",
        "https://hooks.example.com:99999/",
        "https://hooks.example.com:x/",
        "https://hooks.example.com\r\nx-injected: 1/",
        "https://hooks.example.com/ HTTP/1.1",
        "https://hooks。example。com/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://localhost/",
        "https://[hooks.example.com]/",
    ],
)
def test_any_other_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        parse_target(url, RULES)
    assert caught.value.param == "webhook.url"
    assert "secret" not in caught.value.message


@given(st.text(max_size=40))
def test_no_text_is_a_crash(text: str) -> None:
    with pytest.raises(InvalidFieldError):
        parse_target(text, RULES)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "168.63.129.17", "192.0.1.1", "2606:4700::1111"]
)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "168.63.129.16",
        "172.16.0.1",
        "192.0.0.1",
        "192.0.0.9",
        "192.0.0.192",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:168.63.129.16",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::a83f:8110",
        "64:ff9b:1::1",
        "3fff::1",
        "3fff:fff:ffff::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ],
)
def test_addresses_behind_the_wall_are_not(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
