"""Says how Spark's master, workers and Connect server are started, and writes the settings they read.

Keys and tokens are in files that only their owner reads, or in the environment, and never words of a command: any user
of a machine can list those.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.cluster.jars import fetch_jars, spark_home
from jobs.cluster.java import find_java
from jobs.processes import write_private
from jobs.settings import settings

# Read by Spark's own client and server.
TOKEN = "SPARK_CONNECT_AUTHENTICATE_TOKEN"  # noqa: S105 - the name of a variable

_LOGGING = """rootLogger.level = warn
rootLogger.appenderRef.stderr.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yy/MM/dd HH:mm:ss} %p %c{1}: %m%n%ex
logger.deploy.name = org.apache.spark.deploy
logger.deploy.level = info
"""


@dataclass(frozen=True)
class Store:
    """An S3 store as Spark reaches it.

    Attributes:
        endpoint: URL of the store; empty for AWS itself.
        access_key: empty where the machine has a role of its own (IAM).
    """

    endpoint: str = ""
    region: str = "us-east-1"
    access_key: str = ""
    secret_key: str = ""


@dataclass(frozen=True)
class Engine:
    """What one Connect server gets.

    Attributes:
        host: address it binds to, and by which workers reach it.
        memory: of each executor, such as ``1g``.
        cores: of all workers together, for the number of shuffle partitions.
    """

    master: str
    host: str
    port: int
    memory: str
    cores: int
    store: Store
    secret: str
    token: str


@dataclass(frozen=True)
class Command:
    """A program with its words, and the variables it gets beside those of this process."""

    words: list[str]
    environment: dict[str, str]


def master(host: str, port: int, page_port: int, secret: str) -> Command:
    """The standalone master, on a host's address."""
    words = ["--host", host, "--port", str(port), "--webui-port", str(page_port), "--properties-file"]
    return _daemon("org.apache.spark.deploy.master.Master", [*words, str(_guarded(secret))], host)


def worker(master: str, host: str, port: int, cores: int, memory: str, secret: str, folder: Path) -> Command:
    """A worker of a master; `folder` is where its executors work."""
    words = ["--host", host, "--port", str(port), "--webui-port", "0", "--cores", str(cores), "--memory", memory]
    words += ["--work-dir", str(folder), "--properties-file", str(_guarded(secret)), master]
    return _daemon("org.apache.spark.deploy.worker.Worker", words, host)


def connect(engine: Engine) -> Command:
    """The Spark Connect server, which is the one driver of the cluster."""
    file = _configuration() / "connect.conf"
    write_private(file, properties(_connect_settings(engine)))
    words = [str(spark_home() / "bin" / "spark-submit")]
    words += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "--name", "exchange"]
    words += ["--properties-file", str(file), "spark-internal"]
    return Command(words, _environment(engine.host))


def properties(pairs: Mapping[str, str]) -> str:
    """Settings as a Java properties file."""
    return "".join(f"{name} {value}\n".replace("\\", "\\\\") for name, value in pairs.items())


def work_folder() -> Path:
    """Where Spark keeps what it needs only while it runs."""
    folder = settings().cluster / "work"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _daemon(kind: str, words: list[str], host: str) -> Command:
    return Command([str(spark_home() / "bin" / "spark-class"), kind, *words], _environment(host))


def _configuration() -> Path:
    folder = settings().cluster / "conf"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")
    return folder


def _guarded(secret: str) -> Path:
    file = _configuration() / "standalone.conf"
    # A worker's page lets whoever sees it end a job.
    pairs = {**_authentication(secret), "spark.ui.killEnabled": "false", "spark.worker.cleanup.enabled": "true"}
    # On unless told so: it starts whatever program it is asked to, and asks nobody who they are.
    pairs["spark.master.rest.enabled"] = "false"
    write_private(file, properties(pairs))
    return file


def _authentication(secret: str) -> dict[str, str]:
    return {"spark.authenticate": "true", "spark.authenticate.secret": secret}


def _environment(host: str) -> dict[str, str]:
    work = str(work_folder())
    return {
        "JAVA_HOME": str(find_java().parent.parent),
        "SPARK_HOME": str(spark_home()),
        "SPARK_CONF_DIR": str(_configuration()),
        "SPARK_DAEMON_MEMORY": "512m",
        # Bound to and told to others; no name of this machine is looked up.
        "SPARK_LOCAL_IP": host,
        "SPARK_LOCAL_HOSTNAME": host,
        "SPARK_LOCAL_DIRS": work,
        "LOCAL_DIRS": work,
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def _connect_settings(engine: Engine) -> dict[str, str]:
    cores = str(max(engine.cores, 1))
    return {
        "spark.master": engine.master,
        "spark.driver.host": engine.host,
        "spark.driver.bindAddress": engine.host,
        "spark.driver.memory": "1g",
        "spark.executor.memory": engine.memory,
        "spark.jars": ",".join(str(jar) for jar in fetch_jars()),
        "spark.connect.grpc.binding.address": engine.host,
        "spark.connect.grpc.binding.port": str(engine.port),
        "spark.connect.authenticate.token": engine.token,
        "spark.ui.port": "0",
        "spark.ui.killEnabled": "false",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.warehouse.dir": str(work_folder() / "warehouse"),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.adaptive.enabled": "true",
        "spark.sql.shuffle.partitions": cores,
        # INT96 otherwise, which no other reader of Delta tables writes.
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        # Made for tables of millions of files; each is a task, and tasks of nothing are what a small table waits for.
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": "4",
        **_authentication(engine.secret),
        **_store_settings(engine.store),
    }


def _store_settings(store: Store) -> dict[str, str]:
    at = "spark.hadoop.fs.s3a"
    pairs = {
        # A lake is named s3://, as everywhere else, and read by the one S3 client that Spark has.
        "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        f"{at}.endpoint.region": store.region,
    }
    if store.endpoint:
        pairs[f"{at}.endpoint"] = store.endpoint
        pairs[f"{at}.path.style.access"] = "true"
        pairs[f"{at}.connection.ssl.enabled"] = str(store.endpoint.startswith("https")).lower()
    if store.access_key:
        pairs[f"{at}.aws.credentials.provider"] = "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider"
        pairs[f"{at}.access.key"] = store.access_key
        pairs[f"{at}.secret.key"] = store.secret_key
    return pairs
