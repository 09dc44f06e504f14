"""The reference networks, the family's modules they are made of, and how to bring one's own."""

from __future__ import annotations

from mla_edge.networks.network import Network, TierNetwork, load_network

__all__ = ["Network", "TierNetwork", "load_network"]
