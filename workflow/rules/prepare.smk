rule download:
    output:
        "data/raw/{dataset}-{key}.json",
    log:
        "logs/download/{dataset}-{key}.log",
    localrule: True
    params:
        fewshot=FEWSHOT,
        settings=SETTINGS,
    message:
        "download {wildcards.dataset}"
    shell:
        "exec bash workflow/scripts/logged.sh {log} {params.fewshot} download {wildcards.dataset} {params.settings}"


rule prepare:
    input:
        raw_files,
    output:
        manifest=report(
            "results/prepare/{dataset}/{key}/manifest.json",
            category="Data",
            caption="../report/prepare.rst",
        ),
    log:
        "logs/prepare/{dataset}-{key}.log",
    threads: 1
    resources:
        mem_mb=2000,
    params:
        fewshot=FEWSHOT,
        settings=SETTINGS,
        results=results_of("prepare"),
    message:
        "prepare {wildcards.dataset}"
    shell:
        "exec bash workflow/scripts/logged.sh {log} {params.fewshot} prepare {wildcards.dataset} --key {wildcards.key} {params.settings} --results {params.results:q}"


use rule prepare as restore_prepare with:
    input:
        [],
    log:
        "logs/restore/prepare-{dataset}-{key}.log",
    wildcard_constraints:
        key=keys_to_restore("prepare"),
    message:
        "restore data set {wildcards.dataset}, finished before"


ruleorder: restore_prepare > prepare


rule prepare_all:
    input:
        all_outputs("prepare"),
