"""What is served is replaced while calls run: they finish on what they began with, which is freed after them."""

import asyncio
import gc
import weakref
from pathlib import Path

import pytest
import trustme

import dtufc_cloud.served
import dtufc_edge.served
from dtufc.errors import InputError, Unavailable
from dtufc.serving.reload import settle_after
from dtufc.serving.transport import Server, Tls, check_health
from dtufc_cloud.pipeline import CloudPipeline
from dtufc_edge.cloud import Cloud
from dtufc_edge.pipeline import EdgePipeline
from tests.serving.local_pair import LocalCloud, LocalEdge, eventually, local_cloud, local_edge, pipelines, tiny_decoder


def tiny(folder: Path, name: str) -> tuple[EdgePipeline, CloudPipeline]:
    folder.mkdir()
    return pipelines(tiny_decoder(name, folder))


def replace(edge: LocalEdge, cloud: LocalCloud, pair: tuple[EdgePipeline, CloudPipeline], *, unary: bool) -> None:
    """Serves this pair from now on, as a reload does."""
    backbone, head = pair
    before = edge.service.served, cloud.service.served
    way = Cloud(before[0].cloud._channel, cloud.address, {"tiny": backbone.profile.digest}, unary=unary)
    profile = dtufc_edge.served.ServedProfile.of(backbone, edge.service._worker, edge.telemetry)
    edge.service.serve(dtufc_edge.served.Served(profiles={"tiny": profile}, cloud=way))
    other = dtufc_cloud.served.ServedProfile.of(head, cloud.service._worker, cloud.telemetry)
    cloud.service.serve(dtufc_cloud.served.Served(profiles={"tiny": other}))
    for each in before:
        settle_after(each)


@pytest.mark.parametrize("unary", [False, True])
def test_a_text_finishes_on_the_model_it_began_with_the_next_has_the_new_one_and_the_old_is_freed(
    tmp_path: Path, unary: bool
) -> None:
    async def scene() -> None:
        new, old = tiny(tmp_path / "new", "Qwen2"), tiny(tmp_path / "old", "Llama")
        parts = [weakref.ref(old[0].backbone._front), weakref.ref(old[1].head._back)]
        async with (
            local_cloud(old[1]) as cloud,
            local_edge(old[0], cloud.address, unary=unary) as edge,
        ):
            del old
            expected = (await edge.complete(prompt="Hi", max_tokens=12)).ids
            stream = edge.stream(prompt="Hi", max_tokens=12)
            ids = [(await anext(stream)).token.token_id]
            replace(edge, cloud, new, unary=unary)
            assert (await edge.complete(prompt="Hi", max_tokens=12)).ids != expected
            assert all(part() is not None for part in parts)
            ids += [reply.token.token_id async for reply in stream if reply.HasField("token")]
            assert ids == expected
            await eventually(lambda: all(part() is None for part in parts))

    try:
        asyncio.run(scene())
    finally:
        gc.unfreeze()


class Files:
    """A server's files, written anew."""

    def __init__(self, folder: Path) -> None:
        self.tls = Tls(certificate=folder / "own.pem", key=folder / "own.key", ca=folder / "ca.pem")

    def write(self, authority: trustme.CA) -> None:
        """A certificate of this authority, which alone is trusted."""
        issued = authority.issue_cert("127.0.0.1")
        assert self.tls.certificate is not None
        assert self.tls.ca is not None
        self.tls.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(self.tls.key))
        authority.cert_pem.write_to_path(str(self.tls.ca))


def test_a_server_that_reads_its_files_anew_trusts_the_new_authority_and_no_longer_the_old_one(tmp_path: Path) -> None:
    async def scene() -> None:
        old, new = trustme.CA(), trustme.CA()
        (tmp_path / "server").mkdir()
        (tmp_path / "old").mkdir()
        (tmp_path / "new").mkdir()
        server_files, old_client, new_client = (Files(tmp_path / name) for name in ("server", "old", "new"))
        old_client.write(old)
        new_client.write(new)
        server_files.write(old)
        server = Server("127.0.0.1:0", server_files.tls)
        address = server.bind()
        await server.start([])
        await asyncio.to_thread(check_health, address, old_client.tls)
        server_files.write(new)
        server.use(server.read_certificates())
        await asyncio.to_thread(check_health, address, new_client.tls)
        with pytest.raises(Unavailable):
            await asyncio.to_thread(check_health, address, old_client.tls)
        await server.stop(0)

    asyncio.run(scene())


def test_files_that_are_no_certificate_or_do_not_fit_together_are_told_when_they_are_read(tmp_path: Path) -> None:
    files, other = Files(tmp_path), trustme.CA().issue_cert("127.0.0.1")
    for path, content in (
        (files.tls.key, other.private_key_pem.bytes()),
        (files.tls.certificate, b"not a certificate"),
        (files.tls.ca, b""),
        (files.tls.key, None),
    ):
        files.write(trustme.CA())
        assert path is not None
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        for read in (files.tls.read, files.tls.read_for_server, files.tls.server_context):
            with pytest.raises(InputError, match=path.name):
                read()
