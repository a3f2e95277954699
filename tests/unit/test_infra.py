"""Container files in infra/, never run so far, are checked against schemas and the program."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from dockerfile_parse import DockerfileParser

from jobs.cli.program import application
from jobs.settings import CHECKOUT, Settings

INFRA = CHECKOUT / "infra"
MANIFESTS = sorted(file for file in (INFRA / "kubernetes").glob("*.yaml") if file.name != "kustomization.yaml")
KUBERNETES = "1.33"
SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|DATABASE_URL|EXCHANGE_SPARK")


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


def pods(file: Path) -> list[dict[str, Any]]:
    """The pods described by a file."""
    specs = []
    for document in documents(file):
        spec = document.get("spec", {})
        template = spec.get("template") or spec.get("jobTemplate", {}).get("spec", {}).get("template")
        if template:
            specs.append(template["spec"])
    return specs


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_manifests_are_valid_for_kubernetes(file: Path) -> None:
    for document in documents(file):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_kustomization_names_every_manifest_and_its_image() -> None:
    (kustomization,) = documents(INFRA / "kubernetes" / "kustomization.yaml")
    assert kustomization["kind"] == "Kustomization"
    assert sorted(kustomization["resources"]) == [file.name for file in MANIFESTS]
    images = {container["image"] for file in MANIFESTS for pod in pods(file) for container in pod["containers"]}
    assert images == {image["name"] for image in kustomization["images"]} == {"exchange"}


@pytest.mark.parametrize("file", [file for file in MANIFESTS if pods(file)], ids=lambda file: file.name)
def test_pods_have_least_privilege_and_use_existing_commands_and_settings(file: Path) -> None:
    settings = {str(f.validation_alias or f"EXCHANGE_{name.upper()}") for name, f in Settings.model_fields.items()}
    commands = set(typer.main.get_command(application()).commands)
    (pod,) = pods(file)
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        rights = container["securityContext"]
        assert rights["readOnlyRootFilesystem"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert container["args"][0] in commands
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        for variable in container["env"]:
            assert variable["name"] in settings or variable["name"].startswith(("AWS_", "PGPASSWORD"))
            assert ("valueFrom" in variable) == bool(SECRET.search(variable["name"])), variable["name"]


def test_the_containerfile_copies_existing_files_and_runs_as_an_ordinary_user() -> None:
    parsed = DockerfileParser(fileobj=(INFRA / "Containerfile").open("rb"), cache_content=True)
    steps = [step for step in parsed.structure if step["instruction"] != "COMMENT"]
    assert {step["instruction"] for step in steps} == {
        "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "ENTRYPOINT", "CMD",
    }  # fmt: skip
    copied = [source for step in steps if step["instruction"] == "COPY" for source in step["value"].split()[:-1]]
    assert copied
    assert [source for source in copied if not (CHECKOUT / source).exists()] == []
    (user,) = [step["value"] for step in steps if step["instruction"] == "USER"]
    assert int(user) > 0
    pinned = re.search(r"^UV_VERSION := (.+)$", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned
    assert f"uv=={pinned[1]}" in parsed.content


def test_the_first_line_says_that_a_file_was_never_run() -> None:
    for file in (INFRA / "Containerfile", *(INFRA / "kubernetes").glob("*.yaml")):
        assert file.read_text(encoding="utf-8").startswith("# Never "), file
