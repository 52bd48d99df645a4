"""What stands between a client and a server: TLS, with certificates of our own, and proxies."""

import ipaddress
import socket
import ssl
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Certificate(NamedTuple):
    """A certificate, for those who are to trust it, and a server's context with it."""

    path: Path
    context: ssl.SSLContext


class Relay:
    """Passes bytes on to a server: as it is, behind TLS, or as a proxy that knows CONNECT.

    Args:
        port: Where to. Of a proxy, whatever it is asked for.
        tls: Speaks TLS to the client.
        connect: What a proxy answers to CONNECT; None for no proxy.
    """

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None, connect: bytes | None = None) -> None:
        self._port, self._tls, self._connect = port, tls, connect
        self.heads: list[bytes] = []
        self.connections = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _opened(self, plain: socket.socket) -> socket.socket:
        if self._tls is None:
            return plain
        return self._tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)

    def _serve(self, plain: socket.socket) -> None:
        with suppress(OSError), plain, self._opened(plain) as client:  # Also where the client has gone already.
            if isinstance(client, ssl.SSLSocket):
                client.do_handshake()
            if self._connect is not None:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += client.recv(1)
                self.heads.append(head)
                client.sendall(self._connect)
                if b" 200 " not in self._connect:
                    return
            first = client.recv(65536)
            if not first:
                return  # It did not like the certificate; the server is not to hear of it.
            with socket.create_connection(("127.0.0.1", self._port)) as server:
                server.sendall(first)
                back = threading.Thread(target=self._pass, args=(server, client), daemon=True)
                back.start()
                self._pass(client, server)
                back.join(5)

    @staticmethod
    def _pass(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


def self_signed(folder: Path) -> Certificate:
    """Make a certificate of 127.0.0.1 that nobody knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "public.pem", folder / "private.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return Certificate(public, context)


def make_certificates(folder: Path, *hosts: str) -> None:
    """Make `authority.pem`, and `leaf.pem` and `leaf.key` that it signed: not every client takes an authority's as a server's.

    With all that makes one a certificate to the letter: Python 3.13 and newer take no other.

    Args:
        folder: Where to.
        hosts: The names that the certificate is for, beside 127.0.0.1 and localhost.
    """
    now = datetime.now(UTC)

    def build(name: str, issuer: str, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.CertificateBuilder:
        subject, signer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer))
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(signer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(signed_by, critical=False)
            .add_extension(_usage(ca=ca), critical=True)
        )

    authority_key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    signed_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    authority = build("authority", "authority", authority_key, ca=True).sign(authority_key, hashes.SHA256())
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    names = x509.SubjectAlternativeName([address, *map(x509.DNSName, ("localhost", *hosts))])
    leaf = build("127.0.0.1", "authority", leaf_key, ca=False).add_extension(names, critical=False)
    pem = serialization.Encoding.PEM
    (folder / "authority.pem").write_bytes(authority.public_bytes(pem))
    (folder / "leaf.pem").write_bytes(leaf.sign(authority_key, hashes.SHA256()).public_bytes(pem))
    (folder / "leaf.key").write_bytes(
        leaf_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def server_context(folder: Path) -> ssl.SSLContext:
    """Return the context of a server that shows what `make_certificates` made."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "leaf.pem", folder / "leaf.key")
    return context


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
