"""The checks that rules may name: the last word on a candidate."""

from __future__ import annotations

from sparkle.llm.output import identity_checks as identity
from sparkle.llm.output import network_checks as network
from sparkle.llm.output import phones
from sparkle.llm.output import secret_checks as secret
from sparkle.llm.output.candidate import Check

CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        *(identity.card, identity.near_card, identity.cn_id, identity.cn_id15, identity.ssn, identity.iban),
        *(identity.uscc, identity.hk_id, identity.tw_id, identity.unglued),
        *(network.ipv4_public, network.ipv4_special, network.ipv6_public, network.ipv6_special, network.mac),
        *(phones.cn_mobile, phones.cn_landline, phones.us_phone, phones.intl_phone, phones.near_phone),
        *(
            secret.prefixed_key,
            secret.mixed_token,
            secret.aws_key,
            secret.jwt,
            secret.credentials,
            secret.email,
        ),
        *(secret.bare_password, secret.long_secret),
    )
}
"""Checks by the name rules use."""
