"""Composes the commands that start Spark's master, workers and Connect server, and writes the settings they read.

Keys and tokens go into files that only their owner can read, or into the environment, never into arguments, which any
user of a machine can list.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from jobs.lake import SERVER
from jobs.operate.cluster.classes import class_path, java_options
from jobs.operate.cluster.jars import fetch_jars, spark_home
from jobs.operate.cluster.java import find_java
from jobs.operate.processes import write_private
from jobs.settings import settings

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


_DRIVER_MEMORY = "1g"
# With one compiler only, Java shrinks its code cache to a quarter, and evicts code all the time.
_LIGHT = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=128m"
# Java's optimising compiler starts at forty times the usual number of calls. Spark generates code for each query: at
# the usual counts, an executor spent half of its time compiling code that was soon discarded, while loops over millions
# of rows reach these counts soon enough.
_THOROUGHLY_LATE = (
    "-XX:Tier4InvocationThreshold=200000 -XX:Tier4MinInvocationThreshold=24000 "
    "-XX:Tier4CompileThreshold=600000 -XX:Tier4BackEdgeThreshold=1600000"
)
# Limits of a server's caches. By default, Delta caches the state of ten thousand tables for an hour each, some three
# megabytes a table: two hundred fill the driver. Spark keeps the plans of a thousand queries for its web page.
_MEMORY = {
    "spark.databricks.delta.delta.log.cacheSize": "64",
    "spark.sql.ui.retainedExecutions": "50",
    "spark.ui.retainedJobs": "200",
    "spark.ui.retainedStages": "200",
    "spark.ui.retainedTasks": "2000",
}


@dataclass(frozen=True)
class Store:
    """An S3 store as Spark reaches it.

    Attributes:
        endpoint: URL of the store; empty for AWS itself.
        access_key: empty if the machine has a role of its own (IAM).
        session_token: of temporary keys.
    """

    endpoint: str = ""
    region: str = "us-east-1"
    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""

    @property
    def variables(self) -> dict[str, str]:
        """The store as AWS's usual environment variables."""
        variables = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_SESSION_TOKEN": self.session_token,
        }
        return {name: value for name, value in variables.items() if value}


@dataclass(frozen=True)
class Engine:
    """What one Connect server is started with.

    Attributes:
        master: ``spark://host:port``.
        listen: address that clients connect to.
        memory: of each executor, for example ``1g``.
        cores: of all workers together, for the number of shuffle partitions.
        token: that clients authenticate with.
    """

    master: str
    listen: str
    port: int
    memory: str
    cores: int
    store: Store
    token: str


@dataclass(frozen=True)
class Host:
    """Where one part of Spark runs.

    Attributes:
        address: that it binds to, and at which the other parts reach it.
        work: folder for temporary files.
        secret: that the parts authenticate each other with.
    """

    address: str
    work: Path
    secret: str


@dataclass(frozen=True)
class Command:
    """A program with its arguments, and the variables to add to those of this process."""

    words: list[str]
    environment: dict[str, str]


def master(host: Host, port: int, page_port: int) -> Command:
    """The standalone master."""
    words = ["--host", host.address, "--port", str(port), "--webui-port", str(page_port)]
    return _daemon("org.apache.spark.deploy.master.Master", words, host)


def worker(host: Host, port: int, cores: int, memory: str, master: str, store: Store) -> Command:
    """A worker of a master (``spark://host:port``); its Python processes read landed bytes from the store."""
    words = ["--host", host.address, "--port", str(port), "--webui-port", "0", "--work-dir", str(host.work)]
    words += ["--cores", str(cores), "--memory", memory, master]
    daemon = _daemon("org.apache.spark.deploy.worker.Worker", words, host)
    return Command(words=daemon.words, environment=daemon.environment | store.variables)


def connect(host: Host, engine: Engine) -> Command:
    """The Spark Connect server, the only driver of the cluster."""
    file = _configuration() / f"{host.work.name}.conf"
    write_private(file, properties(_connect_settings(host, engine)))
    words = [str(spark_home() / "bin" / "spark-submit"), "--properties-file", str(file), "--name", "exchange"]
    words += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"]
    # The server is started as a daemon, so it ignores spark.driver.memory.
    return Command(words, _environment(host) | {"SPARK_DAEMON_MEMORY": _DRIVER_MEMORY})


def is_loopback(address: str) -> bool:
    """Whether an address reaches no further than this machine."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def properties(pairs: Mapping[str, str]) -> str:
    """Settings as a Java properties file."""
    return "".join(f"{name} {value}\n".replace("\\", "\\\\") for name, value in pairs.items())


def _daemon(kind: str, words: list[str], host: Host) -> Command:
    file = _configuration() / f"{host.work.name}.conf"
    # By default, the web page lets any visitor end a job, and the REST port starts any program it is sent.
    closed = {"spark.ui.killEnabled": "false", "spark.master.rest.enabled": "false"}
    write_private(file, properties({**_authentication(host), **closed, "spark.worker.cleanup.enabled": "true"}))
    words = [str(spark_home() / "bin" / "spark-class"), kind, "--properties-file", str(file), *words]
    return Command(words, _environment(host))


def _configuration() -> Path:
    folder = settings().cluster / "conf"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")
    return folder


def _authentication(host: Host) -> dict[str, str]:
    return {
        "spark.authenticate": "true",
        "spark.authenticate.secret": host.secret,
        # The driver sends its workers the keys of the object store.
        "spark.network.crypto.enabled": str(not is_loopback(host.address)).lower(),
    }


def _environment(host: Host) -> dict[str, str]:
    host.work.mkdir(parents=True, exist_ok=True)
    work = str(host.work)
    return {
        "JAVA_HOME": str(find_java().parent.parent),
        "SPARK_HOME": str(spark_home()),
        # Spark from pip has no such folder; with an existing one, Java would load each class from its jar.
        "SPARK_CONF_DIR": str(spark_home() / "conf"),
        "JDK_JAVA_OPTIONS": _for_every_java(),
        "SPARK_DAEMON_CLASSPATH": class_path(),
        "SPARK_DAEMON_MEMORY": "512m",
        # These work for moments only; an optimising compiler costs them more than it saves.
        "SPARK_DAEMON_JAVA_OPTS": _LIGHT,
        "SPARK_LAUNCHER_OPTS": _LIGHT,
        # The address to bind and announce, so that this machine's name is not looked up.
        "SPARK_LOCAL_IP": host.address,
        "SPARK_LOCAL_HOSTNAME": host.address,
        "SPARK_LOCAL_DIRS": work,
        "LOCAL_DIRS": work,
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def _for_every_java() -> str:
    """Java options that a worker passes on to its executors, because the driver does not know this host's paths."""
    logging = f"-Dlog4j2.configurationFile={(_configuration() / 'log4j2.properties').as_uri()}"
    words = (f'"{word}"' for word in [logging, *java_options()])
    return " ".join([os.environ.get("JDK_JAVA_OPTIONS", ""), *words]).strip()


def _connect_settings(host: Host, engine: Engine) -> dict[str, str]:
    cores = str(max(engine.cores, 1))
    return {
        "spark.master": engine.master,
        "spark.driver.host": host.address,
        "spark.driver.bindAddress": host.address,
        "spark.driver.memory": _DRIVER_MEMORY,
        "spark.executor.memory": engine.memory,
        "spark.executor.extraJavaOptions": _THOROUGHLY_LATE,
        # Taken from this host's folder if it has them, and sent to hosts that lack them.
        "spark.driver.extraClassPath": class_path(),
        "spark.executor.extraClassPath": class_path(),
        "spark.jars": ",".join(str(jar) for jar in fetch_jars()),
        "spark.connect.grpc.binding.address": engine.listen,
        "spark.connect.grpc.binding.port": str(engine.port),
        "spark.connect.authenticate.token": engine.token,
        SERVER: f"{socket.gethostname()}:{engine.port} of {settings().home}",
        "spark.ui.port": "0",
        "spark.ui.killEnabled": "false",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.warehouse.dir": str(host.work / "warehouse"),
        "spark.sql.session.timeZone": "UTC",
        "spark.task.maxFailures": "3",
        "spark.sql.adaptive.enabled": "true",
        "spark.sql.shuffle.partitions": cores,
        # Without it, a task sorts its rows by partition before it writes them, even if all are of one. With more files
        # open, each would hold a row group in memory, of which an executor has little.
        "spark.sql.maxConcurrentOutputFileWriters": "1",
        # INT96 otherwise, which no other reader of Delta tables writes.
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        # The defaults suit tables of millions of files; a small table would wait for many empty tasks.
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": "4",
        **_MEMORY,
        **_authentication(host),
        **_store_settings(engine.store),
    }


def _store_settings(store: Store) -> dict[str, str]:
    at = "spark.hadoop.fs.s3a"
    pairs = {
        # A lake's address begins with s3://, as everywhere else; Spark's only S3 client is s3a.
        "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        f"{at}.endpoint.region": store.region,
        # Each task and the driver wait half a minute for an unavailable store. If it does not come back, the work fails
        # once every attempt of a task has waited: after some four minutes, where the defaults take ten.
        f"{at}.attempts.maximum": "2",
        f"{at}.retry.limit": "6",
        f"{at}.retry.interval": "500ms",
        f"{at}.connection.establish.timeout": "15s",
        f"{at}.connection.timeout": "60s",
    }
    if store.endpoint:
        pairs[f"{at}.endpoint"] = store.endpoint
        pairs[f"{at}.path.style.access"] = "true"
        pairs[f"{at}.connection.ssl.enabled"] = str(store.endpoint.startswith("https")).lower()
    if store.access_key:
        kind = "TemporaryAWSCredentialsProvider" if store.session_token else "SimpleAWSCredentialsProvider"
        pairs[f"{at}.aws.credentials.provider"] = f"org.apache.hadoop.fs.s3a.{kind}"
        pairs[f"{at}.access.key"] = store.access_key
        pairs[f"{at}.secret.key"] = store.secret_key
    if store.session_token:
        pairs[f"{at}.session.token"] = store.session_token
    return pairs
