rule train:
    input:
        training_inputs,
    output:
        weights="results/train/{training}/{key}/weights.safetensors",
        run="results/train/{training}/{key}/run.json",
        history=report(
            "results/train/{training}/{key}/history.csv",
            category="Training",
            caption="../report/train.rst",
        ),
    log:
        "logs/train/{training}-{key}.log",
    threads: lambda wildcards: PLAN.params.train.threads * devices_of(wildcards)
    resources:
        gpu=lambda wildcards: GPUS * devices_of(wildcards),
    params:
        fewshot=FEWSHOT,
        settings=SETTINGS,
        results=results_of("train"),
    message:
        "train {wildcards.training}"
    shell:
        "exec bash workflow/scripts/logged.sh {log} {params.fewshot} train {wildcards.training} --key {wildcards.key} {params.settings} --results {params.results:q}"


use rule train as restore_train with:
    log:
        "logs/restore/train-{training}-{key}.log",
    wildcard_constraints:
        key=keys_to_restore("train"),
    message:
        "restore training {wildcards.training}, finished before"


ruleorder: restore_train > train


rule train_all:
    input:
        all_outputs("train"),
