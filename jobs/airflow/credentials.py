"""Airflow's keys and its password: made once per EXCHANGE_HOME, readable by their owner only."""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.operate.processes import write_private

USER = "admin"


@dataclass(frozen=True)
class AirflowCredentials:
    """The keys that Airflow encrypts and signs with, and the password of its only user."""

    fernet_key: str
    jwt_secret: str
    session_key: str
    password: str


def load_credentials(folder: Path) -> AirflowCredentials:
    """Read the credentials in a folder, making them at first use; also writes the password file that Airflow reads."""
    file = folder / "secrets.json"
    if file.exists():
        credentials = AirflowCredentials(**json.loads(file.read_text(encoding="utf-8")))
    else:
        credentials = AirflowCredentials(
            fernet_key=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            jwt_secret=secrets.token_urlsafe(48),
            session_key=secrets.token_urlsafe(48),
            password=secrets.token_urlsafe(12),
        )
        write_private(file, json.dumps(asdict(credentials)))
    write_private(password_file(folder), json.dumps({USER: credentials.password}) + "\n")
    return credentials


def password_file(folder: Path) -> Path:
    """Where Airflow's simple auth manager finds the password."""
    return folder / "passwords.json"
