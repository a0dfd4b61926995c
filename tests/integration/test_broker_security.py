"""Who gets into the real broker, and what they can do there. Each case is an attack or a right that must hold."""

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import paho.mqtt.client as paho
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aimass.errors import FrameTooLargeError, NobodyListensError, RefusedError
from aimass.transport.base import Message, TlsFiles
from aimass.transport.mqtt import MqttTransport
from aimass.wire import topics
from aimass_cloud.broker.commands import DynamicSecurity
from aimass_cloud.broker.dynsec import Grant, Role
from aimass_cloud.pki.authority import Authority
from aimass_cloud.pki.crl import RevokedSerial
from tests.fakes.knock import Knock
from tests.fakes.real_broker import HOST, RealBroker, wait_until

pytestmark = pytest.mark.integration

NOT_AUTHORISED = 0x87
A, B = Grant(identity="gw-a", role=Role.DEVICE), Grant(identity="gw-b", role=Role.DEVICE)
WORKER = Grant(identity="svc:worker-0", role=Role.DISPATCHER, pool="default")
SHARE = topics.infer_share("default")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RealBroker]:
    with RealBroker(tmp_path, [A, B, WORKER]) as broker:
        yield broker


class Links:
    """Connections of a test, closed at its end."""

    def __init__(self, broker: RealBroker) -> None:
        self.broker = broker
        self._stack = ExitStack()

    def __call__(
        self, identity: str, *, files: TlsFiles | None = None, client_id: str | None = None, up: bool = True
    ) -> MqttTransport:
        files = files or self.broker.files(self.broker.client(identity))
        transport = MqttTransport(client_id or identity, HOST, self.broker.port, files)
        self._stack.callback(transport.close)
        transport.start()
        if up:
            wait_until(lambda: transport.connected, f"{identity} to connect: {transport.last_error}")
        return transport

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def links(broker: RealBroker) -> Iterator[Links]:
    links = Links(broker)
    yield links
    links.close()


class Inbox:
    """What a subscription brought."""

    def __init__(self, transport: MqttTransport, *filters: str) -> None:
        self.messages: list[tuple[str, bytes]] = []
        for topic_filter in filters:
            transport.subscribe(topic_filter, self._take)
        settle(transport)

    def _take(self, message: Message) -> None:
        self.messages.append((message.topic, message.payload))


def settle(transport: MqttTransport) -> None:
    """Returns when the broker has answered all subscriptions: it answers in order, so one more answer will do."""
    with suppress(RefusedError):
        transport.unsubscribe("nothing").wait(10)


def context(files: TlsFiles | None, broker: RealBroker, **bounds: ssl.TLSVersion) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(cadata=broker.authority.root_pem.decode())
    for name, version in bounds.items():
        setattr(made, name, version)
    if files is not None:
        made.load_cert_chain(files.cert, files.key)
    return made


def tls(version: ssl.TLSVersion) -> dict[str, ssl.TLSVersion]:
    return {"minimum_version": version, "maximum_version": version}


def refused(broker: RealBroker, files: TlsFiles | None, **bounds: ssl.TLSVersion) -> bool:
    with Knock(broker.port, context(files, broker, **bounds)) as knock:
        return not knock.accepted and knock.error is not None


def reason(transport: MqttTransport, topic: str, payload: bytes = b"{}", *, retain: bool = False) -> int:
    """The broker's answer to a publish: 0, 0x10 for nobody, or the refusal."""
    try:
        transport.publish(topic, payload, qos=1, retain=retain).wait(10)
    except (RefusedError, NobodyListensError) as exc:
        return int(exc.reason_code)
    return 0


def subscribe_reason(transport: MqttTransport, topic_filter: str) -> int:
    transport.subscribe(topic_filter, lambda _message: None)
    settle(transport)
    return transport.refusals().get(topic_filter, 0)


# --- who gets in


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_takes_an_enrolled_device_by_tls_1_2_and_1_3(broker: RealBroker, version: ssl.TLSVersion) -> None:
    files = broker.files(broker.client("gw-a"))
    with Knock(broker.port, context(files, broker, **tls(version))) as knock:
        assert knock.accepted


def test_listens_on_its_one_port_only(broker: RealBroker) -> None:
    sockets = psutil.Process(broker.supervisor.pid).net_connections(kind="inet")
    assert {(s.laddr.ip, s.laddr.port) for s in sockets if s.status == psutil.CONN_LISTEN} == {(HOST, broker.port)}


def test_refuses_a_connection_without_tls(broker: RealBroker) -> None:
    with Knock(broker.port, None) as knock:
        assert not knock.accepted


def test_refuses_a_client_without_a_certificate(broker: RealBroker) -> None:
    assert refused(broker, None)
    assert refused(broker, None, **tls(ssl.TLSVersion.TLSv1_2))


def test_refuses_a_certificate_of_a_foreign_authority(broker: RealBroker, tmp_path: Path) -> None:
    foreign = Authority.create(tmp_path / "foreign").issue_client_with_key("gw-a", lifetime_s=3600)
    assert refused(broker, broker.files(foreign))


@pytest.mark.parametrize("hours", [-2, 2], ids=["expired", "not yet valid"])
def test_refuses_a_certificate_outside_its_time(broker: RealBroker, hours: int) -> None:
    elsewhen = Authority.open(broker.folder / "pki", clock=lambda: time.time() + hours * 3600)
    assert refused(broker, broker.files(elsewhen.issue_client_with_key("gw-a", lifetime_s=3600)))


def test_refuses_a_server_certificate_as_a_client(broker: RealBroker) -> None:
    server = broker.authority.issue_server("gw-a", ["localhost"], lifetime_s=3600)
    assert refused(broker, broker.files(server))


def test_refuses_a_certificate_that_a_device_signed_with_its_own(broker: RealBroker) -> None:
    device = broker.client("gw-a")
    signer = x509.load_pem_x509_certificate(device.certificate.pem)
    signer_key = serialization.load_pem_private_key(device.key_pem, None)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    forged = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gw-b")]))
        .issuer_name(signer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(signer_key, hashes.SHA256())
    )
    files = broker.files(device)
    pem = serialization.Encoding.PEM
    key_pem = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files.cert.write_bytes(key_pem + forged.public_bytes(pem) + device.certificate.chain_pem)
    assert refused(broker, files)


def test_a_tls_ticket_does_not_let_an_expired_certificate_in(broker: RealBroker) -> None:
    short = broker.client("gw-a", lifetime_s=2)
    made = context(broker.files(short), broker, **tls(ssl.TLSVersion.TLSv1_3))
    with Knock(broker.port, made) as first:  # stays connected, so that the broker has no reason to forget the session
        assert first.accepted
        wait_until(lambda: time.time() * 1000 > short.certificate.not_after_ms + 1000, "the certificate to expire")
        with Knock(broker.port, made, session=first.session) as again:
            assert not again.accepted


def test_who_is_not_granted_anything_may_do_nothing(links: Links) -> None:
    stranger = links("gw-x")
    assert reason(stranger, topics.state("gw-x")) == NOT_AUTHORISED
    assert subscribe_reason(stranger, topics.desired("gw-x")) == NOT_AUTHORISED


# --- the name


def test_presenting_another_ones_client_id_has_no_effect_on_them(broker: RealBroker, links: Links) -> None:
    a = links("gw-a")
    inbox = Inbox(a, topics.ack("gw-a"))
    files = broker.files(broker.client("gw-b"))
    rogue = links("gw-b", files=files, client_id="gw-a")
    assert reason(rogue, topics.state("gw-a")) == NOT_AUTHORISED
    assert reason(rogue, topics.state("gw-b")) in (0, 0x10)  # the certificate says who it is
    control = links("svc:control")
    assert reason(control, topics.ack("gw-a"), b"still there") == 0
    wait_until(lambda: inbox.messages, "a message for gw-a")
    assert a.connected
    assert a.counts().get("losses", 0) == 0


# --- what they may say


@pytest.mark.parametrize(
    "topic",
    [
        topics.state("gw-b"),
        topics.reported("gw-b"),
        topics.event("gw-b", "main"),
        topics.telemetry("gw-b", "heartbeat"),
        topics.infer_request("default", "gw-b"),
        topics.state("gw-a:app"),
        topics.desired("gw-a"),
        topics.desired("gw-b"),
        topics.ack("gw-a"),
        topics.command("gw-a", "reboot"),
        topics.reply("gw-a", "infer"),
        topics.reply("gw-b", "infer"),
        topics.cloud_state("svc:worker-0"),
        "$CONTROL/dynamic-security/v1",
        "$SYS/broker/version",
        "aimass/v1/d/gw-a",
        "anything",
    ],
)
def test_a_device_may_not_publish_outside_its_own_words(links: Links, topic: str) -> None:
    assert reason(links("gw-a"), topic) == NOT_AUTHORISED
    assert reason(links("gw-a"), topic, retain=True) == NOT_AUTHORISED


@pytest.mark.parametrize(
    "topic",
    [
        topics.state("gw-a"),
        topics.reported("gw-a"),
        topics.event("gw-a", "main"),
        topics.telemetry("gw-a", "heartbeat"),
        topics.result("gw-a", "reboot"),
        topics.call("gw-a", "hello"),
    ],
)
def test_a_device_may_say_what_is_its_own_and_the_control_plane_hears_it(links: Links, topic: str) -> None:
    kinds = ("state", "reported", "event", "telemetry", "result", "call")
    inbox = Inbox(links("svc:control"), *(topics.device_filter(kind) for kind in kinds))
    assert reason(links("gw-a"), topic, b"mine") == 0
    wait_until(lambda: inbox.messages == [(topic, b"mine")], topic)


def test_a_device_may_ask_any_pool_under_its_own_name(links: Links) -> None:
    a = links("gw-a")
    assert reason(a, topics.infer_request("default", "gw-a")) == 0x10
    inbox = Inbox(links("svc:worker-0"), SHARE)
    assert reason(a, topics.infer_request("default", "gw-a"), b"question") == 0
    wait_until(lambda: inbox.messages == [(topics.infer_request("default", "gw-a"), b"question")], "the request")
    assert reason(a, topics.infer_request("other", "gw-a")) == 0x10


@pytest.mark.parametrize("topic", [topics.state("gw-b"), topics.ack("gw-b"), "$CONTROL/dynamic-security/v1"])
def test_a_will_reaches_no_further_than_its_device(broker: RealBroker, links: Links, topic: str) -> None:
    control = links("svc:control")
    heard = Inbox(control, topics.device_filter("state"))
    b = Inbox(links("gw-b"), topics.ack("gw-b"))
    command = b'{"commands":[{"command":"deleteClient","username":"gw-b"}]}'
    made = context(broker.files(broker.client("gw-a")), broker)
    with Knock(broker.port, made, will=(topic, command)) as knock:
        assert knock.accepted
    with Knock(broker.port, made, will=(topics.state("gw-a"), b"gone")):
        pass  # a will in its own tree arrives, so the one before it would have
    wait_until(lambda: (topics.state("gw-a"), b"gone") in heard.messages, "the honest will")
    assert heard.messages == [(topics.state("gw-a"), b"gone")]
    assert b.messages == []
    assert "gw-b" in DynamicSecurity(control).identities()


def test_refuses_a_packet_above_the_limit(broker: RealBroker, links: Links) -> None:
    a = links("gw-a")
    assert a.max_packet_bytes == broker.config.max_packet_bytes
    with pytest.raises(FrameTooLargeError):
        a.publish(topics.event("gw-a", "main"), bytes(broker.config.max_packet_bytes + 1), qos=1)


# --- what they may hear


@pytest.mark.parametrize(
    "topic_filter",
    [
        SHARE,
        "$share/thieves/aimass/v1/infer/default/+/req",
        "$share/default/#",
        "$share/x/aimass/v1/d/gw-a/ack",
        topics.desired("gw-b"),
        topics.reply("gw-b", "infer"),
        "aimass/v1/d/+/twin/desired",
        "aimass/v1/d/#",
        "aimass/v1/infer/default/+/req",
        "aimass/v1/infer/default/gw-a/req",
        "aimass/v1/cloud/state/+",
        "#",
        "+/#",
        "$SYS/#",
        "$CONTROL/#",
        "$CONTROL/dynamic-security/v1/response",
    ],
)
def test_a_device_may_not_subscribe_outside_its_own_tree(links: Links, topic_filter: str) -> None:
    assert subscribe_reason(links("gw-a"), topic_filter) == NOT_AUTHORISED


@pytest.mark.parametrize(
    "topic_filter",
    [topics.desired("gw-a"), topics.ack("gw-a"), "aimass/v1/d/gw-a/cmd/#", topics.reply("gw-a", "infer")],
)
def test_a_device_may_hear_what_is_meant_for_it(links: Links, topic_filter: str) -> None:
    assert subscribe_reason(links("gw-a"), topic_filter) == 0


def test_an_older_protocol_version_opens_no_side_door(broker: RealBroker) -> None:
    files = broker.files(broker.client("gw-a"))
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="gw-b", protocol=paho.MQTTv311)
    client.tls_set(str(files.ca), str(files.cert), str(files.key))
    answered, codes = threading.Event(), []

    def on_subscribe(_client: object, _data: object, _mid: int, given: list, _properties: object) -> None:
        codes.extend(code.value for code in given)
        answered.set()

    client.on_connect = lambda c, *_: c.subscribe([(SHARE, 1), (topics.desired("gw-b"), 1), ("#", 1)])
    client.on_subscribe = on_subscribe
    client.connect(HOST, broker.port)
    client.loop_start()
    try:
        assert answered.wait(10)
    finally:
        client.disconnect()
        client.loop_stop()
    assert all(code >= 0x80 for code in codes)
    assert len(codes) == 3


def test_a_thief_at_the_share_takes_nothing_from_the_worker(links: Links) -> None:
    inbox = Inbox(links("svc:worker-0"), SHARE)
    thief = links("gw-b")
    for group in ("default", "thieves"):
        assert subscribe_reason(thief, f"$share/{group}/aimass/v1/infer/default/+/req") == NOT_AUTHORISED
    a = links("gw-a")
    for number in range(100):
        assert reason(a, topics.infer_request("default", "gw-a"), b"%d" % number) == 0
    wait_until(lambda: len(inbox.messages) == 100, "all 100 requests")


# --- services


def test_a_dispatcher_answers_devices_and_says_how_it_is(links: Links) -> None:
    worker, a, control = links("svc:worker-0"), links("gw-a"), links("svc:control")
    answers, states = Inbox(a, topics.reply("gw-a", "infer")), Inbox(control, "aimass/v1/cloud/state/+")
    assert reason(worker, topics.reply("gw-a", "infer"), b"answer") == 0
    assert reason(worker, topics.cloud_state("svc:worker-0"), b"ready") == 0
    wait_until(lambda: answers.messages and states.messages, "answer and state")


@pytest.mark.parametrize(
    "topic",
    [
        topics.reply("gw-a", "other"),
        topics.command("gw-a", "reboot"),
        topics.desired("gw-a"),
        topics.state("gw-a"),
        topics.cloud_state("svc:worker-1"),
        topics.infer_request("default", "gw-a"),
        "$CONTROL/dynamic-security/v1",
    ],
)
def test_a_dispatcher_may_not_publish_beyond_that(links: Links, topic: str) -> None:
    assert reason(links("svc:worker-0"), topic) == NOT_AUTHORISED


@pytest.mark.parametrize(
    "topic_filter",
    [
        topics.infer_share("other"),
        "$share/default/aimass/v1/infer/+/+/req",
        "$share/other/aimass/v1/infer/default/+/req",
        "aimass/v1/infer/default/+/req",
        "aimass/v1/d/+/state",
        "#",
        "$CONTROL/#",
    ],
)
def test_a_dispatcher_may_not_subscribe_beyond_the_share_of_its_pool(links: Links, topic_filter: str) -> None:
    assert subscribe_reason(links("svc:worker-0"), topic_filter) == NOT_AUTHORISED


def test_what_the_cloud_wants_waits_for_its_device(links: Links) -> None:
    control = links("svc:control")
    control.publish(topics.desired("gw-a"), b"wanted", qos=1, retain=True)
    inbox = Inbox(links("gw-a"), topics.desired("gw-a"))
    wait_until(lambda: inbox.messages == [(topics.desired("gw-a"), b"wanted")], "the desired document")


# --- revocation


def revoke(broker: RealBroker, security: DynamicSecurity, identity: str, serial: str) -> None:
    """What the use case does, in its order: the list first, so that nobody thrown out can come back."""
    broker.revoked.append(RevokedSerial(serial, round(time.time() * 1000)))
    broker.write_crl()
    broker.supervisor.reload()
    broker.grants.pop(identity, None)
    security.remove(identity)


def test_a_revoked_device_is_thrown_out_at_once_and_stays_out(broker: RealBroker, links: Links) -> None:
    keyed = broker.client("gw-a")
    files = broker.files(keyed)
    a, b = links("gw-a", files=files), links("gw-b")
    security = DynamicSecurity(links("svc:control"))
    began = time.monotonic()
    revoke(broker, security, "gw-a", keyed.certificate.serial)
    wait_until(lambda: a.counts().get("losses", 0) == 1, "the live session to be ended", timeout_s=5)
    assert time.monotonic() - began < 5
    wait_until(lambda: refused(broker, files), "the reconnection to be refused")
    assert not a.connected
    assert b.connected
    assert b.counts().get("losses", 0) == 0
    broker.supervisor.restart()
    assert refused(broker, files)
    assert not refused(broker, broker.files(broker.client("gw-b")))


def test_a_device_that_enrols_again_after_its_removal_is_welcome(broker: RealBroker, links: Links) -> None:
    keyed = broker.client("gw-a")
    security = DynamicSecurity(links("svc:control"))
    revoke(broker, security, "gw-a", keyed.certificate.serial)
    security.put(A)
    again = links("gw-a")
    assert reason(again, topics.state("gw-a")) in (0, 0x10)
    assert refused(broker, broker.files(keyed))


def test_an_expired_revocation_list_locks_everybody_out_until_a_fresh_one_is_read(broker: RealBroker) -> None:
    files = broker.files(broker.client("gw-a"))
    stale = Authority.open(broker.folder / "pki", clock=lambda: time.time() - 7200)
    fresh, broker.authority = broker.authority, stale
    broker.write_crl(lifetime_s=3600)
    broker.supervisor.reload()
    broker.authority = fresh
    wait_until(lambda: refused(broker, files), "the lock-out")
    broker.write_crl()
    broker.supervisor.reload()
    wait_until(lambda: not refused(broker, files), "the fresh list to be read")


# --- live changes


def test_an_identity_added_live_may_work_at_once(broker: RealBroker, links: Links) -> None:
    security = DynamicSecurity(links("svc:control"))
    newcomer = links("gw-new")
    assert reason(newcomer, topics.state("gw-new")) == NOT_AUTHORISED
    security.put(Grant(identity="gw-new", role=Role.DEVICE))
    assert reason(newcomer, topics.state("gw-new")) in (0, 0x10)
    assert subscribe_reason(links("gw-new", client_id="gw-new"), topics.desired("gw-new")) == 0
    assert "gw-new" in security.identities()


def test_rights_that_change_hold_after_a_moment(broker: RealBroker, links: Links) -> None:
    security = DynamicSecurity(links("svc:control"))
    worker = links("svc:worker-0")
    assert subscribe_reason(worker, topics.infer_share("other")) == NOT_AUTHORISED
    security.put(Grant(identity="svc:worker-0", role=Role.DISPATCHER, pool="other"))
    # The broker ends the connection of whose rights have changed; it comes back by itself.
    wait_until(lambda: worker.connected and topics.infer_share("other") not in worker.refusals(), "the other share")
    assert topics.infer_share("other") not in worker.refusals()


def test_reconciling_repairs_what_a_lost_link_left_undone(broker: RealBroker, links: Links) -> None:
    security = DynamicSecurity(links("svc:control"))
    missing, stray = Grant(identity="gw-new", role=Role.DEVICE), Grant(identity="gw-stray", role=Role.DEVICE)
    security.put(stray)
    lost = links("gw-stray")
    assert security.reconcile([*broker.grants.values(), missing]) == (["gw-new"], ["gw-stray"])
    wait_until(lambda: lost.counts().get("losses", 0) >= 1, "the stray one to be thrown out")
    assert security.reconcile([*broker.grants.values(), missing]) == ([], [])


def test_five_hundred_identities_are_known_after_a_start(tmp_path: Path) -> None:
    many = [Grant(identity=f"gw-{number}", role=Role.DEVICE) for number in range(500)]
    with RealBroker(tmp_path, many) as broker:
        links = Links(broker)
        try:
            assert len(DynamicSecurity(links("svc:control")).identities()) == 501
        finally:
            links.close()


def test_the_broker_can_keep_what_was_changed_live(broker: RealBroker, links: Links) -> None:
    DynamicSecurity(links("svc:control")).put(Grant(identity="gw-new", role=Role.DEVICE))
    kept = json.loads(broker.config.dynsec_file.read_bytes())
    assert "gw-new" in {client["username"] for client in kept["clients"]}
    assert not any(kept["defaultACLAccess"].values())
