"""Compare the pipeline with its limits: with a model that costs nothing, and with the model alone.

The measurements are those of `benchmarks.embedding`.
"""

from benchmarks.embedding import measures
from benchmarks.embedding.corpus import real_prose
from benchmarks.embedding.figures import ceiling_of
from benchmarks.embedding.pool import open_embedding_processes
from benchmarks.embedding.qdrant import open_qdrant
from benchmarks.index.bench import Bench
from ingestq.app.composition import open_broker


async def measure_throughput(bench: Bench) -> None:
    """Measure chunks a second with a static model, and with the default one against it alone."""
    plan, settings = bench.plan, bench.part("throughput")
    corpus = real_prose(plan.ceiling_chunks)
    async with open_qdrant(bench.server) as qdrant, open_broker(settings) as broker:
        corpus.write(settings.data_dir / "corpus")
        embedding = measures.Bench(settings.data_dir, broker, qdrant, corpus, [], bench.console)
        await measures.measure_static(
            embedding, plan.static_rounds, plan.static_documents, plan.static_characters
        )
        bench.samples["static"] += [done.rate for done in embedding.static]
        bench.samples["static lag"] += [done.lag.p99 for done in embedding.static]
        for _ in range(plan.ceiling_rounds):
            await _measure_ceiling(bench, embedding)


async def _measure_ceiling(bench: Bench, embedding: measures.Bench) -> None:
    """Measure a round of the embedding processes alone, then one of a worker with all around."""
    default = measures.Variant("", {})
    async with open_embedding_processes(default.settings) as processes:
        count = processes.count
        await measures.measure_raw(embedding, default, processes, embedding.corpus, count)
    await measures.ingestq_round(embedding, default)
    ceiling = embedding.rates[ceiling_of(count)][-1]
    end_to_end = embedding.rates[measures.INGESTQ][-1]
    bench.samples["ceiling"].append(ceiling)
    bench.samples["end to end"].append(end_to_end)
    bench.samples["share of ceiling"].append(end_to_end / ceiling)
