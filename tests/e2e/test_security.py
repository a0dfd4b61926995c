"""Attacks on a running stack: each is refused by name, and costs nobody else anything."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import aimass
from aimass.cli import digits
from aimass.cli.cloud_api import CloudApi
from aimass.cli.stack import Stack, free_ports
from aimass.cli.waiting import wait_until
from aimass.client.agent import connect
from aimass.device.cloud_http import CloudHttp
from aimass.device.enrol import enrol
from aimass.device.identity import Identity
from aimass.errors import AimassError, AuthError, EnrolError, ModelNotFoundError, SignatureError
from aimass.package.envelope import MANIFEST_TYPE, seal
from aimass.package.keys import SigningKey
from aimass.transport.base import TlsFiles
from aimass.wire import topics
from aimass_cloud.pki.authority import Authority
from tests.e2e.conftest import NewStack
from tests.e2e.steps import deploy, events_of, push
from tests.fakes.certs import TestCa
from tests.fakes.stranger import NOT_AUTHORISED, RefusedByBrokerError, Stranger, connected, stays

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

DAY_S = 86_400


@dataclass
class Site:
    """A running cloud, and identities a and b that an attacker may have got hold of."""

    stack: Stack
    a: Identity
    b: Identity

    @property
    def ca(self) -> str:
        return str(self.stack.ca)

    @property
    def port(self) -> int:
        return self.stack.broker_port

    def enrol(self, id_: str) -> Identity:
        return enrol(self.stack.api.enrol_token(id_), self.stack.folder / "stolen" / id_)

    def files_of(self, name: str, *, clock_s: float, lifetime_s: float = DAY_S) -> TlsFiles:
        """A certificate for a name, made by this cloud's own authority at another time."""
        authority = Authority.open(self.stack.cloud_dir / "pki", clock=lambda: clock_s)
        bundle = self.stack.folder / f"{name}.pem"
        bundle.write_bytes(authority.issue_client_with_key(name, lifetime_s=lifetime_s).bundle_pem)
        return TlsFiles(self.stack.ca, bundle, bundle)

    def refusal(self, files: TlsFiles | None, client_id: str = "") -> str:
        """How the broker refuses; fails the test when it does not."""
        with pytest.raises(RefusedByBrokerError) as caught:
            Stranger(self.ca, files, client_id=client_id).connect(self.port)
        return str(caught.value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Stack(tmp_path_factory.mktemp("s"), agents={}) as stack:
        stack.start()
        site = Site(stack, *(enrol(stack.api.enrol_token(id_), stack.folder / "stolen" / id_) for id_ in ("a", "b")))
        yield site


class TestAtTheBroker:
    def test_nobody_gets_in_without_a_certificate(self, site: Site) -> None:
        site.refusal(None, client_id="a")

    def test_a_certificate_of_a_foreign_ca_is_refused(self, site: Site, tmp_path: Path) -> None:
        site.refusal(TestCa(tmp_path).issue("a"))

    def test_an_expired_certificate_is_refused(self, site: Site) -> None:
        site.refusal(site.files_of("a", clock_s=time.time() - 3 * DAY_S))

    def test_a_certificate_for_a_name_that_never_enrolled_may_do_nothing(self, site: Site) -> None:
        files = site.files_of("nobody", clock_s=time.time())
        with connected(site.ca, site.port, files) as nobody:
            assert nobody.publish(topics.state("nobody"), b"{}") == NOT_AUTHORISED
            assert nobody.publish(topics.infer_request("default", "nobody"), b"x") == NOT_AUTHORISED
            assert nobody.subscribe(topics.desired("nobody")) == NOT_AUTHORISED

    def test_a_server_certificate_does_not_pass_for_a_client(self, site: Site) -> None:
        bundle = site.stack.folder / "server.pem"
        authority = Authority.open(site.stack.cloud_dir / "pki")
        bundle.write_bytes(authority.issue_server("a", ["localhost"], lifetime_s=DAY_S).bundle_pem)
        site.refusal(TlsFiles(site.stack.ca, bundle, bundle))

    @pytest.mark.parametrize(
        "topic",
        [
            topics.state("b"),
            topics.reported("b"),
            topics.desired("b"),
            topics.desired("a"),
            topics.event("b", "answers"),
            topics.ack("a"),
            topics.infer_request("default", "b"),
            topics.reply("b", "infer"),
            topics.cloud_state("svc:worker-0"),
            "$CONTROL/dynamic-security/v1",
        ],
    )
    def test_a_cannot_publish_as_b_or_as_the_cloud(self, site: Site, topic: str) -> None:
        with connected(site.ca, site.port, site.a.tls_files) as a:
            assert a.publish(topic, b"{}") == NOT_AUTHORISED
            assert a.is_connected

    @pytest.mark.parametrize(
        "topic_filter",
        [
            topics.infer_share("default"),
            "$share/other/aimass/v1/infer/default/+/req",
            "$share/x/#",
            "#",
            "aimass/v1/d/+/state",
            topics.desired("b"),
            topics.reply("b", "infer"),
            topics.device_filter("event"),
            "$CONTROL/#",
            "$SYS/#",
        ],
    )
    def test_a_cannot_subscribe_to_a_share_group_or_to_anothers_topics(self, site: Site, topic_filter: str) -> None:
        with connected(site.ca, site.port, site.a.tls_files) as a:
            assert a.subscribe(topic_filter) == NOT_AUTHORISED

    def test_events_that_a_sends_as_b_are_not_stored_for_b(self, site: Site) -> None:
        record = {"seq": 1, "id": "x", "at_ms": 1, "kind": "lie", "data": {"n": 1}}
        lie = json.dumps({"stream_id": "s", "records": [record]}).encode()
        with connected(site.ca, site.port, site.a.tls_files) as a:
            assert a.publish(topics.event("b", "lies"), lie) == NOT_AUTHORISED
            assert a.publish(topics.event("a", "lies"), lie) == 0
            wait_until(lambda: events_of(site.stack, "a", "lies"), timeout_s=20, what="a's own record")
        assert events_of(site.stack, "b", "lies") == []

    def test_b_that_presents_the_client_id_of_a_has_no_effect_on_a(self, site: Site) -> None:
        with connected(site.ca, site.port, site.a.tls_files) as a:
            assert a.subscribe(topics.ack("a")) in (0, 1)
            with connected(site.ca, site.port, site.b.tls_files, client_id="a") as b:
                assert b.publish(topics.state("a"), b"{}") == NOT_AUTHORISED
                assert stays(lambda: a.is_connected and not a.ends, 2.0)
                assert a.publish(topics.event("a", "fine"), b'{"stream_id":"s","records":[]}') == 0
            assert a.is_connected
            assert a.ends == []

    def test_a_removed_device_is_thrown_out_and_never_comes_back(self, site: Site) -> None:
        gone = site.enrol("gone")
        with connected(site.ca, site.port, gone.tls_files) as live:
            site.stack.api.remove_device("gone")
            wait_until(lambda: live.ends, timeout_s=20, what="the live session to be ended")
        for _ in range(3):
            site.refusal(gone.tls_files)
        with pytest.raises(AimassError) as caught:
            CloudHttp(gone).request("POST", "/v1/device/renew", {"csr_pem": ""}, auth_paths=["/v1/device/renew"])
        assert caught.value.code in {"identity.auth", "identity.forbidden", "transport.remote"}
        # Nor does it after the broker was started anew from what the cloud keeps.
        pid = site.stack.kill_broker()
        site.stack.wait_broker(not_pid=pid)
        site.refusal(gone.tls_files)
        wait_until(site.stack.api.ready, timeout_s=20, what="the cloud to have its link back")


class TestAtTheApi:
    @pytest.mark.parametrize("key", ["", "wrong", "aimass"])
    def test_without_a_valid_api_key_nothing_is_told(self, site: Site, key: str) -> None:
        with CloudApi(site.stack.url, key, ca=site.stack.ca) as api, pytest.raises(AuthError):
            api.devices()

    def test_an_enrol_token_lets_in_one_key_only(self, site: Site) -> None:
        token = site.stack.api.enrol_token("once")
        enrol(token, site.stack.folder / "stolen" / "once")
        with pytest.raises(EnrolError):
            enrol(token, site.stack.folder / "stolen" / "once-more")

    def test_a_device_token_opens_its_own_paths_only(self, site: Site) -> None:
        http_of_a = CloudHttp(site.a)
        with pytest.raises(AimassError) as caught:
            http_of_a.request("GET", "/v1/devices", None, auth_paths=["/v1/devices"])
        assert caught.value.code in {"identity.auth", "identity.forbidden", "transport.remote"}


class TestAtTheGateway:
    @pytest.fixture
    def gateway(self, new_stack: NewStack, data: digits.Digits, classifier: digits.Classifier) -> Stack:
        self.tcp_port = free_ports(1)[0]
        door = {"AIMASS_EDGE_TCP__ENABLED": "true", "AIMASS_EDGE_TCP__PORT": str(self.tcp_port)}
        stack = new_stack({"gw-1": door})
        stack.start()
        deploy(stack, classifier)
        return stack

    def test_the_local_door_refuses_web_pages_and_whoever_has_no_token(self, gateway: Stack) -> None:
        token = (gateway.home("gw-1") / "door.token").read_text().strip()
        good = {"Authorization": f"Bearer {token}"}
        assert self.ask(good) == 200
        assert self.ask({}) == 401
        assert self.ask({"Authorization": "Bearer wrong"}) == 401
        assert self.ask({**good, "Origin": "https://page.example"}) == 403
        assert self.ask({**good, "Origin": f"http://127.0.0.1:{self.tcp_port}"}) == 403
        assert self.ask({**good, "Host": "page.example"}) == 403
        assert self.ask(good, path="/v1/agent/status") == 404, "management is for the Unix socket only"

    def ask(self, headers: dict[str, str], path: str = "/v2/health/ready") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.tcp_port, timeout=5)
        try:
            connection.request("GET", path, headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def test_models_that_nobody_known_signed_are_not_run(
        self, gateway: Stack, data: digits.Digits, classifier: digits.Classifier
    ) -> None:
        image = data.test_images[:1]
        # Somebody took over the cloud and signs with a key of their own: the gateway pinned another one.
        gateway.cloud.stop()
        (gateway.cloud_dir / "keys" / "publisher.pem").write_bytes(SigningKey.generate().to_pem())
        gateway.start_cloud()
        version = push(gateway, classifier)
        assert version == 2
        gateway.api.deploy(classifier.name, device="gw-1", version=version)
        wait_until(lambda: failed_code(gateway) == SignatureError.code, timeout_s=60, what="the refusal to be reported")
        with connect(gateway.socket_path("gw-1")) as client:
            assert client.infer(classifier.name, image, mode="edge").version == "1"

        # Somebody changed the disk of the gateway: the model there is not loaded at the next start.
        gateway.agents["gw-1"].stop()
        gateway.cloud.stop()
        package = gateway.home("gw-1") / "models" / classifier.name / "1"
        resign(package, SigningKey.generate())
        copy = shutil.copytree(package, gateway.folder / "copy")
        gateway.start_agent("gw-1")
        with connect(gateway.socket_path("gw-1")) as client, pytest.raises(ModelNotFoundError):
            client.infer(classifier.name, image, mode="edge")

        # Nor does an embedded application take it, or one without any signature.
        publishers = Identity.load(gateway.home("gw-1")).publisher_keys
        with pytest.raises(SignatureError):
            aimass.embed(models=[copy], publisher_keys=publishers)
        (copy / "manifest.json").write_bytes(payload_of(copy))
        with pytest.raises(SignatureError):
            aimass.embed(models=[copy], publisher_keys=publishers)


def failed_code(stack: Stack) -> str:
    for model in (stack.api.device("gw-1")["reported"] or {})["models"]:
        if model["state"] == "failed":
            return str(model["error"]["code"])
    return ""


def payload_of(package: Path) -> bytes:
    return base64.b64decode(json.loads((package / "manifest.json").read_text())["payload"])


def resign(package: Path, key: SigningKey) -> None:
    (package / "manifest.json").write_bytes(seal(MANIFEST_TYPE, payload_of(package), [key]))
