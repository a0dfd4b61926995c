"""The life of the broker under its supervisor: started, killed, reloaded, outliving nobody."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from aimass.errors import ConfigError, RefusedError
from aimass.transport.mqtt import MqttTransport
from aimass.wire import topics
from aimass_cloud.broker.dynsec import Grant, Role
from aimass_cloud.broker.supervisor import BrokerSupervisor
from tests.fakes.real_broker import HOST, RealBroker, wait_until

pytestmark = pytest.mark.integration

A = Grant(identity="gw-a", role=Role.DEVICE)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RealBroker]:
    with RealBroker(tmp_path, [A]) as broker:
        yield broker


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[RealBroker]:
    broker = RealBroker(tmp_path, [A])
    yield broker
    broker.supervisor.stop()


def connected(broker: RealBroker, identity: str) -> MqttTransport:
    transport = MqttTransport(identity, HOST, broker.port, broker.files(broker.client(identity)))
    transport.start()
    wait_until(lambda: transport.connected, f"{identity} to connect")
    return transport


def may_publish(transport: MqttTransport, topic: str) -> bool:
    try:
        transport.publish(topic, b"{}", qos=0 if topic.startswith("$") else 1).wait(10)
    except RefusedError:
        return False
    except Exception as exc:
        if getattr(exc, "code", "") != "transport.nobody":
            raise
    return True


def serial_shown(broker: RealBroker) -> str:
    context = ssl.create_default_context(cadata=broker.authority.root_pem.decode())
    with (
        socket.create_connection((HOST, broker.port), 5) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as tls,
    ):
        return str(tls.getpeercert()["serialNumber"])


def kill(broker: RealBroker) -> int:
    pid = broker.supervisor.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


# --- start and stop


def test_starts_once_and_stops_and_starts_again(stopped: RealBroker) -> None:
    supervisor = stopped.supervisor
    assert (supervisor.running, supervisor.pid) == (False, None)
    for _ in range(2):
        supervisor.start()
        supervisor.start()
        assert supervisor.running
        pid = supervisor.pid
        supervisor.stop()
        supervisor.stop()
        assert (supervisor.running, supervisor.pid) == (False, None)
        assert pid is not None
        assert not psutil.pid_exists(pid)
    assert supervisor.restarts == 0


def test_writes_what_the_broker_says_into_its_log(broker: RealBroker) -> None:
    wait_until(lambda: "running" in broker.config.log_file.read_text(), "the log")
    assert any("mosquitto version" in line for line in broker.supervisor.log_tail())


def test_keeps_retained_messages_over_an_orderly_restart(broker: RealBroker) -> None:
    first = connected(broker, "gw-a")
    first.publish(topics.state("gw-a"), b"online", qos=1, retain=True).add_done_callback(lambda _receipt: None)
    wait_until(lambda: may_publish(first, topics.reported("gw-a")), "the broker to have taken it")
    first.close()
    broker.supervisor.restart()
    control, heard = connected(broker, "svc:control"), []
    control.subscribe(topics.device_filter("state"), heard.append)
    wait_until(lambda: heard, "the retained message")
    assert (heard[0].topic, heard[0].retained) == (topics.state("gw-a"), True)
    control.close()


def test_stops_a_frozen_broker_by_force(broker: RealBroker) -> None:
    pid = broker.supervisor.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    broker.supervisor.stop(timeout_s=0.2)
    assert not psutil.pid_exists(pid)


# --- what stops a start


@pytest.mark.parametrize("name", ["ca_file", "server_pem", "crl_file", "dynsec_file"])
def test_a_missing_file_is_named_and_nothing_runs(stopped: RealBroker, name: str) -> None:
    missing: Path = getattr(stopped.config, name)

    def write_files() -> None:
        stopped.write_files()
        missing.unlink()

    supervisor = BrokerSupervisor(stopped.config, before_start=write_files)
    with pytest.raises(ConfigError, match=missing.name):
        supervisor.start()
    assert (supervisor.running, supervisor.pid) == (False, None)


def test_an_error_while_writing_the_files_ends_the_start(stopped: RealBroker) -> None:
    def broken() -> None:
        raise OSError("no database")

    supervisor = BrokerSupervisor(stopped.config, before_start=broken)
    with pytest.raises(OSError, match="no database"):
        supervisor.start()
    assert not supervisor.running


def test_a_port_that_is_taken_is_reported_in_the_brokers_words(stopped: RealBroker) -> None:
    with socket.create_server((HOST, stopped.port)):
        supervisor = BrokerSupervisor(stopped.config, before_start=stopped.write_files, ready_timeout_s=1)
        with pytest.raises(ConfigError, match="Address already in use") as caught:
            supervisor.start()
    assert str(stopped.port) in caught.value.message
    assert not supervisor.running


def test_waits_for_a_port_that_is_about_to_be_free(stopped: RealBroker) -> None:
    server = socket.create_server((HOST, stopped.port))
    release = threading.Timer(0.3, server.close)
    release.start()
    stopped.supervisor.start()
    assert stopped.supervisor.running
    release.join()


def test_a_damaged_certificate_is_reported_in_the_brokers_words(stopped: RealBroker) -> None:
    def write_files() -> None:
        stopped.write_files()
        stopped.config.server_pem.write_bytes(b"not a certificate")

    supervisor = BrokerSupervisor(stopped.config, before_start=write_files, ready_timeout_s=1)
    with pytest.raises(ConfigError, match="certificate"):
        supervisor.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start it as somebody else")
def test_a_user_who_could_not_write_the_folder_is_refused(stopped: RealBroker) -> None:
    config = replace(stopped.config, user="nobody")
    supervisor = BrokerSupervisor(config, before_start=stopped.write_files)
    with pytest.raises(ConfigError, match="nobody"):
        supervisor.start()


# --- death


def test_a_killed_broker_comes_back_with_the_identities_of_the_database(broker: RealBroker) -> None:
    broker.grants["gw-b"] = Grant(identity="gw-b", role=Role.DEVICE)
    del broker.grants["gw-a"]
    pid = kill(broker)
    wait_until(lambda: broker.supervisor.running and broker.supervisor.pid != pid, "the broker to come back")
    assert broker.supervisor.restarts == 1
    a, b = connected(broker, "gw-a"), connected(broker, "gw-b")
    assert may_publish(b, topics.state("gw-b"))
    assert not may_publish(a, topics.state("gw-a"))
    a.close(), b.close()


def test_a_broker_killed_again_and_again_keeps_coming_back(broker: RealBroker) -> None:
    for number in range(3):
        kill(broker)
        wait_until(lambda n=number: broker.supervisor.running and broker.supervisor.restarts == n + 1, "its return")


def test_clients_find_their_way_back_after_a_kill(broker: RealBroker) -> None:
    link = connected(broker, "gw-a")
    kill(broker)
    wait_until(lambda: link.counts().get("losses", 0) == 1 and link.connected, "gw-a to be back")
    assert may_publish(link, topics.state("gw-a"))
    link.close()


def test_files_that_cannot_be_written_at_a_restart_are_tried_again(stopped: RealBroker) -> None:
    calls: list[str] = []

    def write_files() -> None:
        calls.append("write")
        if len(calls) in (2, 3):
            raise OSError("database busy")
        stopped.write_files()

    supervisor = BrokerSupervisor(stopped.config, before_start=write_files)
    supervisor.start()
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_until(lambda: len(calls) == 4 and supervisor.running, "the fourth try")
    supervisor.stop()


def test_the_broker_does_not_outlive_a_cloud_that_is_killed(stopped: RealBroker) -> None:
    stopped.write_files()
    program = (
        "import sys, time; from pathlib import Path; from aimass_cloud.broker.config import BrokerConfig; "
        "from aimass_cloud.broker.supervisor import BrokerSupervisor; "
        f"config = BrokerConfig.in_folder(Path({str(stopped.config.folder)!r}), bind={HOST!r}, port={stopped.port}); "
        "supervisor = BrokerSupervisor(config, before_start=lambda: None); supervisor.start(); "
        "print(supervisor.pid, flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    cloud = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment)
    assert cloud.stdout is not None
    try:
        broker = psutil.Process(int(cloud.stdout.readline()))
        assert "mosquitto" in broker.name()
    finally:
        cloud.kill()
        cloud.wait(10)
        cloud.stdout.close()
    wait_until(lambda: not broker.is_running() or broker.status() == psutil.STATUS_ZOMBIE, "the broker to end")


# --- reload


def test_a_renewed_server_certificate_is_shown_after_a_reload_and_nobody_is_disturbed(broker: RealBroker) -> None:
    link = connected(broker, "gw-a")
    before = serial_shown(broker)
    broker.write_server()
    assert serial_shown(broker) == before
    broker.supervisor.reload()
    wait_until(lambda: serial_shown(broker) != before, "the new certificate")
    assert may_publish(link, topics.state("gw-a"))
    assert link.counts().get("losses", 0) == 0
    link.close()


def test_a_reload_keeps_the_rights_that_were_changed_live(broker: RealBroker) -> None:
    from aimass_cloud.broker.commands import DynamicSecurity

    control = connected(broker, "svc:control")
    security = DynamicSecurity(control)
    security.put(Grant(identity="gw-b", role=Role.DEVICE))
    before = serial_shown(broker)
    broker.write_server()
    broker.supervisor.reload()
    wait_until(lambda: serial_shown(broker) != before, "the reload")
    assert "gw-b" in security.identities()
    control.close()


def test_reloading_a_broker_that_is_down_has_no_effect(stopped: RealBroker) -> None:
    stopped.supervisor.reload()
    assert not stopped.supervisor.running


def test_a_round_trip_takes_no_forty_milliseconds(broker: RealBroker) -> None:
    control, a = connected(broker, "svc:control"), connected(broker, "gw-a")
    arrived = threading.Event()
    a.subscribe(topics.ack("gw-a"), lambda _message: arrived.set())
    wait_until(lambda: may_publish(control, topics.ack("gw-a")) and arrived.wait(0.2), "the subscription")
    took: list[float] = []
    for _ in range(30):
        arrived.clear()
        began = time.perf_counter()
        control.publish(topics.ack("gw-a"), bytes(1024), qos=1)
        assert arrived.wait(10)
        took.append(time.perf_counter() - began)
    assert sorted(took)[len(took) // 2] < 0.02  # Nagle's algorithm on either side would make it 0.04
    control.close(), a.close()
