"""Deployments: which document each identity gets, and when it changes."""

from __future__ import annotations

import pytest

from aimass.errors import InputError, ModelNotFoundError, NotFoundError, RollbackError
from aimass.package.desired import Desired
from aimass.package.trust import accept_desired, accept_manifest
from aimass_cloud.broker.dynsec import Role
from tests.fakes.cloud import CloudInMemory


def document(cloud: CloudInMemory, identity: str) -> Desired:
    """The current document, accepted by the rules a device has."""
    with cloud.store.read() as tx:
        record = tx.twins.desired(identity)
    assert record is not None
    return accept_desired(record.envelope, keys=[cloud.control.public], device=identity, last=None)


def wanted(cloud: CloudInMemory, identity: str) -> dict[str, int]:
    return {model.name: model.version for model in document(cloud, identity).models}


def test_a_deployment_reaches_the_device_signed(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.push()
    view = cloud.deployments.deploy("digits", device="gw-1")
    assert view.version == 1
    identity, envelope = cloud.outlet.announced[-1]
    desired = accept_desired(envelope, keys=[cloud.control.public], device=identity, last=None)
    assert [(model.name, model.version) for model in desired.models] == [("digits", 1)]


def test_the_document_leads_to_the_signed_manifest(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.push()
    cloud.deployments.deploy("digits", device="gw-1")
    model = document(cloud, "gw-1").models[0]
    envelope = b"".join(cloud.blobs.open(model.manifest_path.rsplit("/", 1)[1]))
    manifest = accept_manifest(
        envelope, publishers=[cloud.publisher.public], sha256=model.manifest_sha256, name="digits", version=1
    )
    assert all(cloud.blobs.exists(entry.sha256) for entry in manifest.files.values())


def test_a_deployment_to_all_reaches_those_that_enrol_later(cloud: CloudInMemory) -> None:
    cloud.push()
    cloud.deployments.deploy("digits")
    cloud.enrol("gw-9")
    assert wanted(cloud, "gw-9") == {"digits": 1}


def test_what_a_device_is_told_itself_wins_over_what_all_are_told(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.enrol("gw-2")
    cloud.push()
    cloud.push()
    cloud.deployments.deploy("digits", version=1, device="gw-1")
    cloud.deployments.deploy("digits", version=2)
    assert (wanted(cloud, "gw-1"), wanted(cloud, "gw-2")) == ({"digits": 1}, {"digits": 2})


def test_an_embedded_app_follows_its_device_unless_told_itself(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.enrol("gw-1:app")
    cloud.push()
    cloud.push()
    cloud.deployments.deploy("digits", version=1, device="gw-1")
    assert wanted(cloud, "gw-1:app") == {"digits": 1}
    cloud.deployments.deploy("digits", version=2, device="gw-1:app")
    assert (wanted(cloud, "gw-1"), wanted(cloud, "gw-1:app")) == ({"digits": 1}, {"digits": 2})


def test_ending_a_deployment_takes_the_model_away(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.push()
    view = cloud.deployments.deploy("digits", device="gw-1")
    cloud.deployments.end(view.record.id)
    assert wanted(cloud, "gw-1") == {}


def test_the_version_counts_only_when_the_content_changes(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.push()
    cloud.deployments.deploy("digits", device="gw-1")
    before = document(cloud, "gw-1")
    announced = len(cloud.outlet.announced)
    cloud.deployments.deploy("digits", device="gw-1")
    cloud.deployments.refresh()
    assert document(cloud, "gw-1").version == before.version
    assert len(cloud.outlet.announced) == announced


def test_a_newer_document_is_accepted_after_an_older_one_and_not_the_other_way(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.push()
    first = document(cloud, "gw-1")
    cloud.deployments.deploy("digits", device="gw-1")
    _, envelope = cloud.outlet.announced[-1]
    last = (first.epoch, first.version)
    second = accept_desired(envelope, keys=[cloud.control.public], device="gw-1", last=last)
    with pytest.raises(RollbackError):
        accept_desired(envelope, keys=[cloud.control.public], device="gw-1", last=(second.epoch, second.version))


def test_an_alias_moves_the_devices_that_follow_it(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.push()
    cloud.push()
    cloud.models.set_alias("digits", "champion", 1)
    cloud.deployments.deploy("digits", alias="champion", device="gw-1")
    assert wanted(cloud, "gw-1") == {"digits": 1}
    cloud.models.set_alias("digits", "champion", 2)
    assert wanted(cloud, "gw-1") == {"digits": 2}


def test_the_newest_version_is_deployed_when_none_is_named_and_stays(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.push()
    cloud.push()
    assert cloud.deployments.deploy("digits", device="gw-1").version == 2
    cloud.push()
    assert wanted(cloud, "gw-1") == {"digits": 2}


def test_a_worker_holds_every_version_that_is_newest_aliased_or_deployed(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.enrol("svc:worker-0", role=Role.DISPATCHER, pool="default")
    for _ in range(4):
        cloud.push()
    cloud.push("other")
    cloud.models.set_alias("digits", "champion", 2)
    cloud.deployments.deploy("digits", version=3, device="gw-1")
    held = document(cloud, "svc:worker-0").models
    assert [(model.name, model.version, model.default) for model in held] == [
        ("digits", 2, False),
        ("digits", 3, False),
        ("digits", 4, True),
        ("other", 1, True),
    ]


def test_announcing_all_sends_every_current_document_but_not_those_of_removed_devices(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.enrol("gw-2")
    cloud.devices.remove("gw-2")
    cloud.outlet.announced.clear()
    cloud.deployments.announce_all()
    assert [identity for identity, _ in cloud.outlet.announced] == ["gw-1"]


def test_a_device_that_comes_back_goes_on_counting(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.push()
    cloud.deployments.deploy("digits", device="gw-1")
    before = document(cloud, "gw-1")
    cloud.devices.remove("gw-1")
    cloud.enrol("gw-1")
    after = document(cloud, "gw-1")
    assert (after.epoch, after.version) > (before.epoch, before.version)
    assert after.models == ()


def test_unknown_models_versions_aliases_and_devices_are_named(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.push()
    with pytest.raises(ModelNotFoundError):
        cloud.deployments.deploy("nothing", device="gw-1")
    with pytest.raises(ModelNotFoundError):
        cloud.deployments.deploy("digits", version=9, device="gw-1")
    with pytest.raises(ModelNotFoundError):
        cloud.deployments.deploy("digits", alias="champion", device="gw-1")
    with pytest.raises(NotFoundError):
        cloud.deployments.deploy("digits", device="gw-9")
    with pytest.raises(NotFoundError):
        cloud.deployments.end(99)
    with pytest.raises(InputError):
        cloud.deployments.deploy("digits", version=1, alias="champion")


def test_deployments_are_listed_in_pages(cloud: CloudInMemory) -> None:
    for name in ("a", "b", "c"):
        cloud.push(name)
        cloud.deployments.deploy(name)
    first = cloud.deployments.page(limit=2)
    assert [view.record.model for view in first.items] == ["a", "b"]
    assert first.next is not None
    rest = cloud.deployments.page(after=int(first.next), limit=2)
    assert ([view.record.model for view in rest.items], rest.next) == (["c"], None)
