"""The servers, each in processes of its own, on a core of its own where there are two, on the loopback interface.

`static` is the one that is not the limit: nginx serves the tree over TLS with the ETag that each name carries, obeys
`If-Match` and ranges, and hands listings on to `listing_server`. moto and `rclone serve s3` are there to compare with.
"""

import getpass
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.servers.tls import make_certificates

from .tree import BUCKET

READY_SECONDS = 60.0
HOW_TO_GET_NGINX = "apt-get install nginx-light libnginx-mod-http-headers-more-filter libnginx-mod-http-echo"
_MODULES = Path("/usr/lib/nginx/modules")
_HEADERS_MORE = _MODULES / "ngx_http_headers_more_filter_module.so"
_ECHO = _MODULES / "ngx_http_echo_module.so"

_NGINX = """\
{modules}
{user}
worker_processes 1;
worker_rlimit_nofile 16384;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    etag off;
    sendfile on;
    tcp_nopush on;
    types {{ }}
    default_type binary/octet-stream;
    keepalive_requests 100000000;
    keepalive_timeout 60;
    client_body_temp_path {folder}/client; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    proxy_buffers 16 64k;
    proxy_buffer_size 64k;
    upstream listing {{ server 127.0.0.1:{listing_port}; keepalive 64; }}
    map $uri $etag {{ default ""; "~/(?<digest>[0-9a-f]{{32}})[^/]*$" '"$digest"'; }}
    map "$http_if_match=$etag" $is_another {{ default 1; "~^=" 0; '~^(?<wanted>"[^"]*")=\\k<wanted>$' 0; }}
    map $args $is_listing {{ default 0; "~(^|&)list-type=2" 1; }}
    server {{
        listen 127.0.0.1:{port} ssl backlog=4096;
        {plain}
        ssl_certificate {folder}/leaf.pem;
        ssl_certificate_key {folder}/leaf.key;
        ssl_session_cache shared:sessions:4m;
        root {root};
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        {locations}
    }}
}}
"""
_SERVE = """if ($is_another) {{ return 412; }}
            more_clear_input_headers If-Match;
            more_set_headers "ETag: $etag";
            try_files $uri =404;"""
_AT_ONCE = f"""location / {{
            if ($is_listing) {{ proxy_pass http://listing; }}
            {_SERVE.format()}
        }}"""
_LATE = f"""location / {{
            if ($is_listing) {{ proxy_pass http://listing; }}
            echo_sleep SECONDS;
            echo_exec @body;
        }}
        location @body {{
            {_SERVE.format()}
        }}"""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server to talk to.

    Attributes:
        server: Which it is.
        url: Where it listens.
        certificate: The authority that signed its certificate, or None if it speaks plain http.
        plain_url: Where it listens without TLS, on the port that needs no number, if it does.
    """

    server: str
    url: str
    certificate: Path | None
    plain_url: str | None = None


class AbsentError(Exception):
    """Something that a measurement needs is not on this machine, or does not work here. The message says what."""


def missing_for_static(*, late: bool = False) -> str | None:
    """Say what the static server lacks on this machine, or None."""
    if _nginx() is None:
        return f"there is no nginx; {HOW_TO_GET_NGINX}"
    for module in (_HEADERS_MORE, *([_ECHO] if late else [])):
        if not module.exists():
            return f"nginx has no {module.name}; {HOW_TO_GET_NGINX}"
    return None


def _nginx() -> str | None:
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))


@contextmanager
def static(
    folder: Path,
    root: Path,
    catalogue: str,
    cores: set[int] | None,
    *,
    page_pause: float = 0.0,
    body_pause: float = 0.0,
) -> Iterator[Endpoint]:
    """Serve a tree of files, or none, and a catalogue, over TLS.

    Args:
        folder: Where the servers may write.
        root: The folder that holds the bucket.
        catalogue: What is listed.
        cores: Where the servers run.
        page_pause: Seconds before every page of a listing.
        body_pause: Seconds before the first byte of every body.

    Raises:
        AbsentError: There is no nginx that can do it.
    """
    if lacking := missing_for_static(late=bool(body_pause)):
        raise AbsentError(lacking)
    make_certificates(folder)
    with ExitStack() as stack:
        listing_port = stack.enter_context(listing(folder, catalogue, cores, page_pause=page_pause))
        port, has_80 = _free_port(), _is_free(80)
        configuration = folder / "nginx.conf"
        configuration.write_text(
            _NGINX.format(
                modules="\n".join(f"load_module {m};" for m in (_HEADERS_MORE, *([_ECHO] if body_pause else []))),
                user=f"user {getpass.getuser()};" if os.geteuid() == 0 else "",
                folder=folder,
                root=root,
                port=port,
                plain="listen 127.0.0.1:80;" if has_80 else "",
                listing_port=listing_port,
                locations=_LATE.replace("SECONDS", f"{body_pause:g}") if body_pause else _AT_ONCE,
            )
        )
        command = [str(_nginx()), "-p", str(folder), "-c", str(configuration), "-e", str(folder / "error.log")]
        process = stack.enter_context(_running(command, cores))
        _wait_for(port, process)
        url = f"https://127.0.0.1:{port}"
        yield Endpoint("static", url, folder / "authority.pem", "http://127.0.0.1" if has_80 else None)


@contextmanager
def listing(folder: Path, catalogue: str, cores: set[int] | None, *, page_pause: float = 0.0) -> Iterator[int]:
    """Serve a catalogue alone, over plain http; yield the port."""
    path = folder / "catalogue"
    path.write_text(catalogue)
    command = [sys.executable, "-m", "benchmarks.listing_server", str(path), "--bucket", BUCKET]
    with _running([*command, "--pause", str(page_pause)], cores) as process:
        yield int(_first_line(process))


@contextmanager
def moto(tree: Path, cores: set[int] | None) -> Iterator[Endpoint]:
    """Serve a tree by moto, one Python process, over plain http."""
    with _running([sys.executable, "-m", "benchmarks.moto_server", str(tree)], cores) as process:
        yield Endpoint("moto", _first_line(process), None)


@contextmanager
def rclone(binary: str, folder: Path, root: Path, cores: set[int] | None) -> Iterator[Endpoint]:
    """Serve a tree by `rclone serve s3` over TLS."""
    make_certificates(folder)
    port = _free_port()
    (folder / "rclone.conf").touch()
    command = [binary, "serve", "s3", str(root), "--config", str(folder / "rclone.conf"), "--addr", f"127.0.0.1:{port}"]
    command += ["--cert", str(folder / "leaf.pem"), "--key", str(folder / "leaf.key"), "--log-level", "ERROR"]
    command += ["--vfs-read-wait", "0s", "--auth-key", "benchmark,benchmark-secret"]
    with _running(command, cores) as process:
        _wait_for(port, process)
        yield Endpoint("rclone serve s3", f"https://127.0.0.1:{port}", folder / "authority.pem")


@contextmanager
def _running(command: list[str], cores: set[int] | None) -> Iterator["subprocess.Popen[str]"]:
    """Run a server until the block ends. One of ours ends with its standard input, others are told to."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if cores is not None:
        os.sched_setaffinity(process.pid, cores)  # Before it has threads or workers of its own.
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.stdin.close()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise AbsentError(f"{process.args!r} did not start")
    return line


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait_for(port: int, process: "subprocess.Popen[str]") -> None:
    """Wait until a server answers a TLS greeting."""
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as plain, anyone.wrap_socket(plain):
            return
        time.sleep(0.02)
    raise AbsentError(f"{Path(str(process.args[0])).name} did not start")  # type: ignore[index]
