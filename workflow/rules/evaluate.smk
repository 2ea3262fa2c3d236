rule evaluate:
    input:
        evaluation_inputs,
    output:
        json=report(
            "results/evaluate/{experiment}/{key}/{target}.json",
            category="Evaluation",
            caption="../report/evaluate.rst",
        ),
        arrays="results/evaluate/{experiment}/{key}/{target}.npz",
    log:
        "logs/evaluate/{experiment}-{target}-{key}.log",
    benchmark:
        "logs/benchmarks/evaluate/{experiment}-{target}-{key}.tsv"
    threads: PLAN.params.train.threads
    resources:
        gpu=GPUS,
    params:
        fewshot=FEWSHOT,
        suite=SUITE,
        results=results_of("evaluate"),
    message:
        "evaluate {wildcards.experiment} on {wildcards.target}"
    shell:
        "bash workflow/scripts/logged.sh {log} {params.fewshot} evaluate {wildcards.experiment} --target {wildcards.target} --key {wildcards.key}"
        " --suite {params.suite} --results {params.results}"


rule evaluate_all:
    input:
        all_outputs("evaluate"),


# `snakemake <experiment>` runs one experiment with its dependencies.
for job in PLAN.train:

    rule:
        name:
            job.name
        input:
            [
                str(path)
                for evaluation in PLAN.of_experiment(job.name)
                for path in evaluation.outputs.values()
            ],
