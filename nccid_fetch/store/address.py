"""Where a bucket is on the wire. Every URL of our own is made here, so that what is signed is what is sent."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, urlsplit

_SAFE = "-_.~"
"""What SigV4 leaves as it is, beside letters and digits; in a path the slash as well."""
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a bucket: on a host of its own (virtual-hosted), or in a folder of the endpoint's host (path style).

    Attributes:
        scheme: `http` or `https`.
        host: The host as the `Host` header has it: in lower case, without the scheme's own port.
        folder: What stands before the slash of a key: nothing on a host of its own, else `/bucket`.
        region: The region that signatures name.
    """

    scheme: str
    host: str
    folder: str
    region: str

    @classmethod
    def of(cls, url: str, region: str) -> Self:
        """Return the address that a request for the bucket itself goes to.

        Args:
            url: The request's URL; its query does not matter.
            region: The region that its signature names.

        >>> Address.of("https://S3.example.org:443/bucket?list-type=2", "eu-west-2")
        Address(scheme='https', host='s3.example.org', folder='/bucket', region='eu-west-2')
        >>> Address.of("http://bucket.localhost:9000/?list-type=2", "eu-west-2").folder
        ''
        """
        parts = urlsplit(url)
        host = parts.hostname or ""
        if ":" in host:
            host = f"[{host}]"
        if parts.port is not None and parts.port != _PORTS.get(parts.scheme):
            host = f"{host}:{parts.port}"
        return cls(parts.scheme, host, parts.path.rstrip("/"), region)

    @property
    def origin(self) -> str:
        """Scheme and host."""
        return f"{self.scheme}://{self.host}"

    @property
    def url(self) -> str:
        """The bucket's URL, without a slash at its end."""
        return self.origin + self.folder

    def object(self, key: str) -> str:
        """Return the request target of an object: its path, percent-encoded as SigV4 wants it."""
        return f"{self.folder}/{_escaped(key, f'/{_SAFE}')}"

    def listing(self, query: Mapping[str, str]) -> str:
        """Return the request target of a listing: the path of the bucket, and the query in SigV4's order.

        The path is never empty: what goes over the wire is `/`, and so has to be what is signed.

        >>> Address.of("https://bucket.s3.eu-west-2.amazonaws.com", "eu-west-2").listing({"prefix": "a b"})
        '/?prefix=a%20b'
        """
        pairs = sorted((_escaped(name, _SAFE), _escaped(value, _SAFE)) for name, value in query.items())
        return f"{self.folder or '/'}?{'&'.join(f'{name}={value}' for name, value in pairs)}"


def _escaped(text: str, safe: str) -> str:
    """Return a text percent-encoded: the bytes that it stands for, also where they are not UTF-8."""
    return quote(text, safe=safe, errors="surrogateescape")
