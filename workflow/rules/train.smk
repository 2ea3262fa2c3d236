rule train:
    input:
        lambda wildcards: outputs_of(PLAN.find("train", wildcards.experiment).prepare),
    output:
        weights="results/train/{experiment}/{key}/weights.safetensors",
        run="results/train/{experiment}/{key}/run.json",
        history=report(
            "results/train/{experiment}/{key}/history.csv",
            category="Training",
            caption="../report/train.rst",
        ),
    log:
        "logs/train/{experiment}-{key}.log",
    benchmark:
        "logs/benchmarks/train/{experiment}-{key}.tsv"
    threads: lambda wildcards: PLAN.params.train.threads * devices_of(wildcards)
    resources:
        gpu=lambda wildcards: GPUS * devices_of(wildcards),
    params:
        fewshot=FEWSHOT,
        suite=SUITE,
        results=results_of("train"),
    message:
        "train {wildcards.experiment}"
    shell:
        "bash workflow/scripts/logged.sh {log} {params.fewshot} train {wildcards.experiment} --key {wildcards.key} --suite {params.suite} --results {params.results}"


rule train_all:
    input:
        all_outputs("train"),
