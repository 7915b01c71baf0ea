"""Whether NetworkPolicies let a connection through, as Kubernetes decides it."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.k8s.manifests import Manifest


@dataclass(frozen=True)
class Pod:
    """One end of a connection: a pod, by its labels and those of its namespace if another."""

    labels: Mapping[str, str]
    namespace_labels: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Outside:
    """What is no pod: a load balancer of the cloud, or anybody."""

    address: str
    labels: Mapping[str, str] = field(default_factory=dict)


def may_reach(policies: Sequence[Manifest], source: Pod | Outside, target: Pod, port: int) -> bool:
    """Whether `target` takes a connection: one of the policies that select it must let it in."""
    selecting = [
        each["spec"] for each in policies if _matches(each["spec"]["podSelector"], target.labels)
    ]
    rules = [rule for spec in selecting for rule in spec.get("ingress", [])]
    return not selecting or any(_lets_in(rule, source, port) for rule in rules)


def _lets_in(rule: Manifest, source: Pod | Outside, port: int) -> bool:
    ports = [each["port"] for each in rule.get("ports", [])]
    peers = rule.get("from", [])
    return (not ports or port in ports) and (
        not peers or any(_is_peer(peer, source) for peer in peers)
    )


def _is_peer(peer: Manifest, source: Pod | Outside) -> bool:
    if isinstance(source, Outside):
        block = peer.get("ipBlock")
        return block is not None and _is_in(source.address, block["cidr"])
    if "namespaceSelector" not in peer:
        is_near = source.namespace_labels is None
    else:
        is_near = _matches(peer["namespaceSelector"], source.namespace_labels or {})
    return (
        "ipBlock" not in peer and is_near and _matches(peer.get("podSelector", {}), source.labels)
    )


def _is_in(address: str, block: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(block)


def _matches(selector: Manifest, labels: Mapping[str, str]) -> bool:
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items() and all(
        _is_in_set(each, labels) for each in selector.get("matchExpressions", [])
    )


def _is_in_set(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    if expression["operator"] != "In":
        raise ValueError(f"operator must be In, got {expression['operator']!r}")
    return labels.get(expression["key"]) in expression["values"]
