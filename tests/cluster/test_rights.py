"""Parts work with least-privilege keys of an object store and over TLS, and report what they may not do.

The store applies the policies in infra/s3 unchanged.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import delta_sharing
import pytest
from botocore.exceptions import SSLError

from jobs.lake import objects
from jobs.operate.cluster import store as stores
from jobs.operate.cluster.credentials import ServiceCredentials
from jobs.operate.processes import Mark, free_port, is_listening, launch
from jobs.settings import CHECKOUT
from tests.cluster.authority import Certified, certify
from tests.lake.trial import Trial
from tests.waiting import wait_until

pytestmark = pytest.mark.long

SECRET = "planted-secret-of-this-test"
# The embedded engine has the rights of its process.
PARTS = {"writer": ["engine", "steps"], "share": ["share"], "whoever": []}
PRODUCT = "SELECT meter, sum(kwh) AS kwh FROM silver.readings GROUP BY meter"


# Loads the source, releases the product, runs upkeep and grants a buyer access.
EVERYTHING = """
import json
from datetime import UTC, datetime
from jobs.flow import run_step
from jobs.exchange.grants import create_grant
from jobs.operate.upkeep import upkeep
day = datetime(2026, 1, 1, tzinfo=UTC)
steps = {"readings": ("land", "bronze", "silver", "check"), "load": ("gold", "check", "release")}
print(json.dumps([run_step(step, name, day, "r").status for name in steps for step in steps[name]]))
print(json.dumps([kept.status for kept in upkeep().tables]))
print(json.dumps(create_grant("load", "Bank", 30)[1]))
"""


@dataclass(frozen=True)
class Store:
    """A store that serves HTTP and HTTPS, with an exchange in its bucket."""

    home: Path
    catalogue: Path
    ports: dict[str, int]
    certified: Certified

    def run(self, key: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run `exchange …` with the rights of a key."""
        return subprocess.run(
            [sys.executable, "-m", "jobs.cli", *words], cwd=CHECKOUT, env=self.environment(key) | more,
            capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip

    @contextmanager
    def serving(self, key: str) -> Iterator[None]:
        """Run the sharing server with the rights of a key."""
        server = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", "serve"], cwd=CHECKOUT, env=self.environment(key),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            wait_until(lambda: server.poll() is not None or is_listening(self.ports["share"]), 280)
            assert server.poll() is None
            yield
        finally:
            server.terminate()
            server.communicate()

    def environment(self, key: str) -> dict[str, str]:
        return dict(os.environ) | {
            "EXCHANGE_HOME": str(self.home), "EXCHANGE_CATALOGUE": str(self.catalogue), "EXCHANGE_SPARK": "embedded",
            "EXCHANGE_LAKE": "s3://exchange/lake", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports['store']}",
            "AWS_REGION": stores.REGION, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": SECRET,
            "EXCHANGE_SHARE_PORT": str(self.ports["share"]),
        }  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("rights")
    ports = {name: free_port(0) for name in (*stores.PORTS, "tls", "share")}
    created = Store(folder / "home", folder / "catalogue", ports, certify(folder))
    mark = Mark("EXCHANGE_CLUSTER_OF", str(created.home))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXCHANGE_HOME", str(created.home))
        credentials = ServiceCredentials()
        command = stores.store(ports, credentials)
        _give_rights(stores.store_folder() / "s3.json")
        tls = [f"-s3.port.https={ports['tls']}", f"-s3.cert.file={created.certified.certificate}"]
        process = launch(
            [*command.words, *tls, f"-s3.key.file={created.certified.key}"], mark=mark, log=folder / "store.log",
            environment=command.environment, folder=stores.store_folder(), ends_with_parent=True,
        )  # fmt: skip
        try:
            stores.prepare_store(ports["store"], credentials, lambda: _require_alive(process), 60)
            _declare(created)
            yield created
        finally:
            mark.end_all()
            process.wait()


def _give_rights(file: Path) -> None:
    """Add an identity for each part, with its policies, to the one that creates the bucket."""
    config = json.loads(file.read_text(encoding="utf-8"))
    for name, policies in PARTS.items():
        rights = {"policyNames": policies} if policies else {"actions": ["Read", "Write", "List"]}
        config["identities"].append({"name": name, "credentials": [{"accessKey": name, "secretKey": SECRET}], **rights})
    texts = {file.stem: file.read_text(encoding="utf-8") for file in (CHECKOUT / "infra" / "s3").glob("*.json")}
    config["policies"] = [{"name": name, "content": text} for name, text in texts.items()]
    file.write_text(json.dumps(config), encoding="utf-8")


def _require_alive(process: subprocess.Popen[bytes]) -> None:
    assert process.poll() is None


def _declare(store: Store) -> None:
    exchange = Trial(store.catalogue)
    source = exchange.source({"meter": "STRING", "kwh": "DECIMAL(8,2)"}, ("meter",), name="readings")
    exchange.product({"meter": "STRING", "kwh": "DECIMAL(18,2)"}, ("meter",), PRODUCT, name="load")
    source.drop([("m1", "1.50"), ("m2", "2.25")])


def test_each_part_works_with_its_documented_rights_and_no_more(store: Store, tmp_path: Path) -> None:
    # In another process: the embedded engine keeps the keys with which its process first reached a store.
    finished = subprocess.run(
        [sys.executable, "-c", EVERYTHING], cwd=CHECKOUT, env=store.environment("writer"), capture_output=True,
        text=True, timeout=500, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    steps, upkeep, profile_document = map(json.loads, finished.stdout.splitlines())
    assert (set(steps), set(upkeep)) == ({"succeeded"}, {"nothing to do"})
    profile = tmp_path / "bank.share"
    profile.write_text(json.dumps(profile_document), encoding="utf-8")

    with store.serving("share"):
        assert len(delta_sharing.load_as_pandas(f"{profile}#exchange.products.load")) == 2
    for words in (("land", "readings"), ("run",)):
        done = store.run("share", *words)
        assert done.returncode in (1, 2)
        output = " ".join((done.stdout + done.stderr).split())
        assert "the object store does not allow it; expected the rights that infra/README.md lists" in output
        assert "Traceback" not in output
        assert SECRET not in output


@pytest.mark.parametrize("words", [("doctor",), ("run",)])
def test_a_missing_bucket_is_reported(store: Store, words: tuple[str, ...]) -> None:
    done = store.run("whoever", *words, EXCHANGE_LAKE="s3://nowhere/lake")
    assert done.returncode in (1, 2)
    output = " ".join((done.stdout + done.stderr).split())
    assert "s3://nowhere/lake" in output
    assert "the bucket does not exist" in output
    assert "create it, or correct EXCHANGE_LAKE" in output


def test_the_store_is_reached_over_tls_by_clients_that_trust_its_authority(store: Store) -> None:
    address, authority = f"https://127.0.0.1:{store.ports['tls']}", str(store.certified.authority)
    trusting = {"AWS_ENDPOINT_URL": address, "AWS_CA_BUNDLE": authority, "SSL_CERT_FILE": authority}
    done = store.run("writer", "doctor", "--json", **trusting)
    statuses = {finding["subject"]: finding["status"] for finding in json.loads(done.stdout)}
    assert statuses["lake"] == statuses["engine and lake"] == statuses["clock"] == "ok", done.stdout
    # Clients retry many times before they give up, so only the final error is tested.
    refused = SSLError(endpoint_url=address, error="unknown authority")
    error = objects.store_error(refused, "s3://exchange/lake")
    assert error is not None
    assert "certificate is not trusted here" in str(error)
    assert "AWS_CA_BUNDLE and SSL_CERT_FILE" in str(error)
