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
    threads: PLAN.params.train.threads
    resources:
        gpu=GPUS,
    params:
        fewshot=FEWSHOT,
        settings=SETTINGS,
        results=results_of("evaluate"),
    message:
        "evaluate {wildcards.experiment} on {wildcards.target}"
    shell:
        "exec bash workflow/scripts/logged.sh {log} {params.fewshot} evaluate {wildcards.experiment} --target {wildcards.target} --key {wildcards.key}"
        " {params.settings} --results {params.results:q}"


use rule evaluate as restore_evaluate with:
    log:
        "logs/restore/evaluate-{experiment}-{target}-{key}.log",
    wildcard_constraints:
        key=keys_to_restore("evaluate"),
    message:
        "restore evaluation {wildcards.experiment} on {wildcards.target}, finished before"


ruleorder: restore_evaluate > evaluate


rule evaluate_all:
    input:
        all_outputs("evaluate"),


# `snakemake <experiment>` runs one experiment with its dependencies.
for experiment in PLAN.experiments:

    rule:
        name:
            experiment.name
        input:
            [
                str(path)
                for evaluation in PLAN.of_experiment(experiment.name)
                for path in evaluation.outputs.values()
            ],
