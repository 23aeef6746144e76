"""JSON Web Tokens for scripted brokers, which do not look at the signature."""

import base64
import json
import secrets
import time


def _part(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(subject, issuer="idp", lifetime_s=3600, padding=0, **claims):
    """A new one each time; None as a value leaves a claim out."""
    claims = {"sub": subject, "iss": issuer, "exp": int(time.time()) + lifetime_s,
              "jti": secrets.token_hex(8), "scope": ["rabbitmq.write:*/*"],
              "pad": "x" * padding, **claims}
    claims = {key: value for key, value in claims.items() if value is not None}
    return ".".join((_part(b'{"alg":"RS256"}'), _part(json.dumps(claims).encode()),
                     _part(secrets.token_bytes(32))))
