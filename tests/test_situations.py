"""What providers, servers and machines really do, and what the script then does.

The words in the tables are the providers' own. Each row is met in a run that was answered so far,
at the second of four problems (or, where it says so, from the first request on).
"""

import json
import os
import re
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from conftest import (
    ANTHROPIC,
    DEEPSEEK,
    KEY,
    OPENAI,
    OPENROUTER,
    PROXY,
    VLLM,
    answered,
    asked,
    at,
    jsonl,
    last_line,
    read_jsonl,
    run_file,
    without_address,
    write_problems,
)
from fake_llm import ANSWER, CERTIFICATE, FakeLLM, Reply
from forks import CLOSED

from completions import main

# What a situation means: the exit code, which of the problems 0 to 3 are answered when the second
# gets the reply in question (in batches of two), and how many requests that takes.
PROBLEM = (1, [0, 2, 3], 4)  # no record; the others go on
RUN = (1, [0], 2)  # what is under way is kept, and nothing more is sent
ANSWER_IT_IS = (0, [0, 1, 2, 3], 4)
FROM_THE_START = (1, [], 2)  # all are answered so: the run ends after the first batch
ALIKE = (1, [], 10)  # all are answered so: the run ends after ten requests


def row(name: str, outcome, reply: Reply, *says: str, model: str = OPENAI, options=()):
    return pytest.param(outcome, reply, says, model, options, id=name)


def error(status: int, message: str, **more) -> Reply:
    """As OpenAI and most others tell an error."""
    return Reply(status=status, body={"error": {"message": message, **more}})


def anthropic(status: int, message: str, kind: str = "invalid_request_error") -> Reply:
    content = {"type": "error", "error": {"type": kind, "message": message}}
    return Reply(status=status, body=content)


# --- passing: each is the first reply to a problem, and sent again it is answered ---

RATE_LIMITS = {
    "OpenAI": "Rate limit reached for gpt-4o in organization org-1 on requests per min (RPM): "
    "Limit 3, Used 3, Requested 1. Please try again in 20s. Visit "
    "https://platform.openai.com/account/rate-limits to learn more. You can increase your rate "
    "limit by adding a payment method to your account at "
    "https://platform.openai.com/account/billing.",
    "Vertex, of a model": "Quota exceeded for aiplatform.googleapis.com/online_prediction_requests_"
    "per_base_model with base model: gemini. Please submit a quota increase request.",
    "DashScope": "Allocated quota exceeded, please increase your quota limit.",
    "Gemini": "You exceeded your current quota, please check your plan and billing details. For "
    "more information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits.\n"
    "* Quota exceeded for metric: "
    "generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 20, model: "
    "gemini-2.5-flash\nPlease retry in 34.587s.",
    "Gemini in short": "Resource has been exhausted (e.g. check quota).",
    "Vertex per minute": "Quota exceeded for aiplatform.googleapis.com/generate_content_requests_"
    "per_minute_per_project_per_base_model with base model: gemini-pro. Please submit a quota "
    "increase request.",
    "Vertex": "Resource exhausted. Please try again later. Please refer to "
    "https://cloud.google.com/vertex-ai/docs/error-code-429 for more details.",
    "Azure": "Requests to the ChatCompletions_Create Operation have exceeded token rate limit of "
    "your current OpenAI S0 pricing tier. Please retry after 20 seconds. Please go here: "
    "https://aka.ms/oai/quotaincrease if you would like to further increase the default rate "
    "limit. For Free Account customers, upgrade to Pay as you Go here: "
    "https://aka.ms/429TrialUpgrade.",
    "Groq per day": "Rate limit reached for model `x` in organization `org_1` on tokens per day "
    "(TPD): Limit 100000, Used 99900, Requested 2000. Please try again in 27m21.6s. Need more "
    "tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing",
    "Anthropic": "This request would exceed the rate limit for your organization of 50,000 input "
    "tokens per minute. Please reduce the prompt length or the maximum tokens requested, or try "
    "again later. You may also contact sales to discuss your options for a rate limit increase.",
    "Cohere": "You are using a Trial key, which is limited to 40 API calls / minute. You can "
    "continue to use the Trial key for free or upgrade to a Production key with higher rate "
    "limits at 'https://dashboard.cohere.com/api-keys'.",
    "Moonshot": "Your account org-1<ak-1> request reached organization max RPM: 3, please try "
    "again after 1 seconds",
    "Zhipu": "您的账户已达到速率限制，请您控制请求频率",  # noqa: RUF001
    "SiliconFlow": "Request was rejected due to rate limiting. If you want more, please contact "
    "contact@siliconflow.cn. Details:TPM limit reached.",
    "OpenRouter": "google/gemma-3:free is temporarily rate-limited upstream. Please retry "
    "shortly, or add your own key to accumulate your rate limits: "
    "https://openrouter.ai/settings/integrations",
    "Bedrock": "Too many tokens, please wait before trying again.",
    "Mistral": "Service tier capacity exceeded for this model.",
    "LiteLLM proxy": "No deployments available for selected model, Try again in 5 seconds. Passed"
    " model=x. pre-call-checks=False, cooldown_list=[('1', {...})]",
}
HTML = {"Content-Type": "text/html"}
EVERYWHERE = {
    **{str(status): Reply(status=status) for status in (408, 409, 424, 425, 429, 498, 499)},
    **{str(status): Reply(status=status) for status in (500, 502, 503, 504, 520, 524, 529)},
    "504 in HTML": Reply(status=504, body="<h1>504 Time-out</h1>", headers=HTML),
    "reset": Reply(reset=True),
    "half a body": Reply(broken=True),
    "no gzip": Reply(headers={"Content-Encoding": "gzip"}),
    "no body": Reply(body=""),
    "408 that speaks of credits": Reply(status=408, error="Timed out; no credits were charged."),
    "425 that speaks of a model": Reply(status=425, error="The model x is not available yet."),
    "499 that speaks of balance": Reply(status=499, error="Client gone, balance unchanged."),
    "999 of a wall": Reply(status=999, body="<h1>Are you a robot?</h1>", headers=HTML),
    "200 in HTML": Reply(body="<h1>Sign in</h1>", headers=HTML),
}
CHAT = {
    **{f"rate limit of {name}": error(429, text) for name, text in RATE_LIMITS.items()},
    "429 with a known code": error(429, "Slow down.", code="rate_limit_exceeded"),
    # A status of 200, and yet no answer.
    "200 error beside an answer": Reply(
        body={"error": {"message": "oops"}, "choices": [{"message": {"content": "x"}}]}
    ),
    "200 content that is no text": Reply(message={"content": {"a": "b"}}),
    "200 error as text": Reply(body={"error": "The upstream is gone."}),
    "200 error as object": Reply(
        body={"error": {"message": "Provider returned error", "code": 502}}
    ),
    "200 object error": Reply(body={"object": "error", "message": "engine is dead", "code": 50001}),
    "200 detail": Reply(body={"detail": "Internal error"}),
    "200 message": Reply(body={"code": 500, "msg": "internal error", "success": False}),
    "200 error beside null": Reply(body={"error": {"message": "oops"}, "choices": None}),
    "200 error beside none": Reply(body={"error": {"message": "oops"}, "choices": []}),
    "200 HTML": Reply(body="<html><body>Gateway</body></html>", headers=HTML),
    "200 HTML called JSON": Reply(body="<!DOCTYPE html><p>Please wait"),
    "200 text": Reply(body="upstream error", headers={"Content-Type": "text/plain"}),
    "200 empty": Reply(body=""),
    "200 null": Reply(body="null"),
    "200 list": Reply(body=[]),
    "200 no choices": Reply(choices=False),
    "200 a choice without a message": Reply(choice={"message": None}),
    # A finish_reason that says that the answer was broken off.
    **{
        f"finish_reason {reason}": Reply("```lua\nretu", finish=reason)
        for reason in (
            *("error", "abort", "aborted", "insufficient_system_resource", "network_error"),
            *("cancelled", "timeout", "server_error"),
        )
    },
    "an error in the choice": Reply(
        "```lua\nretu", finish="error", choice={"error": {"code": 502, "message": "gone"}}
    ),
    "a finish_reason of its own": Reply("```lua\nretu", choice={"native_finish_reason": "error"}),
    "an error in a choice that stopped": Reply("```lua\nretu", choice={"error": "gone"}),
    # What a model says tells no kind of failure.
    "an error beside code about money": Reply(
        "local balance = 0", finish="error", choice={"error": {"code": 502, "message": "gone"}}
    ),
    "half a body about money": Reply("Safety first: local balance = 0 " * 9, broken=True),
    "a stream about money": Reply(body='data: {"choices": [{"delta": {"content": "balance"}}]}'),
    # What litellm itself cannot read.
    "200 usage in words": Reply(usage={"prompt_tokens": "ten", "completion_tokens": [2]}),
    "200 a tool call without a function": Reply(message={"tool_calls": [{"id": 1}]}),
}
# openai/ is asked by OpenAI's client and hosted_vllm/ by litellm's own, as are the three others, of
# which each gets a third.
PASSES = {
    **{model: EVERYWHERE | CHAT for model in (OPENAI, VLLM)},
    **{
        model: dict(list((EVERYWHERE | CHAT).items())[number::3])
        for number, model in enumerate((OPENROUTER, DEEPSEEK, PROXY))
    },
    ANTHROPIC: EVERYWHERE
    | {
        "overloaded": anthropic(529, "Overloaded", "overloaded_error"),
        "200 overloaded": anthropic(200, "Overloaded", "overloaded_error"),
        "rate limit": anthropic(429, RATE_LIMITS["Anthropic"], "rate_limit_error"),
    },
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("model", PASSES)
def test_what_passes_is_sent_again_and_then_answered(server, command, told, model):
    faults = PASSES[model]
    replies = list(faults.values())
    server.replies = lambda request: replies[request.problem] if request.attempt == 1 else Reply()
    write_problems(len(faults))
    code = main(command(*at(server, model), "--batch-size", 4, "--concurrent-batches", 4))
    responses = {row["task_id"]: row["response"] for row in read_jsonl()}
    requests = asked(server)
    wrong = {
        name: (requests[number], responses.get(number))
        for number, name in enumerate(faults)
        if (requests[number], responses.get(number)) != (2, ANSWER)
    }
    assert not wrong, told()
    assert code == 0


# --- of one problem ---

TOO_LONG = {
    "OpenAI": (400, "This model's maximum context length is 8192 tokens. However, your messages "
               "resulted in 10061 tokens. Please reduce the length of the messages."),
    "Anthropic": (400, "prompt is too long: 210061 tokens > 200000 maximum"),
    "llama.cpp": (400, "the request exceeds the available context size. try increasing the context "
                  "size or enable context shift"),
    "Mistral": (400, "Prompt contains 40000 tokens and 0 draft tokens, too large for model with "
                "32768 maximum context length"),
    "Bedrock": (400, "Input is too long for requested model."),
    "Groq per minute": (413, "Request too large for model `x` in organization `org_1` on tokens per"
                        " minute (TPM): Limit 6000, Requested 9061, please reduce your message size"
                        " and try again. Need more tokens? Upgrade to Dev Tier today at "
                        "https://console.groq.com/settings/billing"),
    "SGLang": (400, "Input length (9000 tokens) exceeds the maximum allowed length (8192 tokens). "
               "Use a shorter input or enable --allow-auto-truncate."),
    "Gemini": (400, "The input token count (1100000) exceeds the maximum number of tokens allowed "
               "(1048576)."),
    "DashScope": (400, "Range of input length should be [1, 30720]"),
    "nginx": (413, "Request Entity Too Large"),
}  # fmt: skip
BLOCKED_BY = {
    "OpenAI": (400, "Invalid prompt: your prompt was flagged as potentially violating our usage "
               "policy. Please try again with a different prompt."),
    "Azure": (400, "The response was filtered due to the prompt triggering Azure OpenAI's content "
              "management policy. Please modify your prompt and retry. To learn more about our "
              "content filtering policies please read our documentation: https://go.microsoft.com"),
    "DashScope": (400, "<400> InternalError.Algo.DataInspectionFailed: Input text data may contain "
                  "inappropriate content."),
    "DashScope output": (400, "Output data may contain inappropriate content."),
    "OpenRouter": (403, 'openai/gpt-4o requires moderation on OpenRouter. Your input was flagged '
                   'for "violence".'),
    "OpenRouter short": (403, "Input was flagged for: harassment"),
    "Zhipu": (400, "系统检测到输入或生成内容可能包含不安全或敏感内容，请您避免输入易产生敏感内容的提示语，感谢您的配合。"),  # noqa: E501, RUF001
    "Zhipu in English": (400, "The system has detected potentially unsafe or sensitive content in "
                         "input or generation. Please avoid using prompts that may generate "
                         "sensitive content."),
    "DeepSeek": (400, "Content Exists Risk"),
    "Moonshot": (400, "The request was rejected because it was considered high risk"),
    "Anthropic": (400, "Output blocked by content filtering policy"),
    "xAI": (403, "Content violates usage guidelines. Team: 1, API key ID: 2, Model: grok-4, Failed "
            "check: SAFETY_CHECK_TYPE_BIO"),
    "LiteLLM proxy": (400, "Violated guardrail policy"),
    "Bedrock": (422, "The prompt was blocked by your guardrails"),
    "a law": (451, "This content is blocked for legal reasons"),
}  # fmt: skip
OF_ONE_PROBLEM = [
    *(row(f"too long for {name}", PROBLEM, error(*told), "1 failed") for name, told in
      TOO_LONG.items()),
    row("too long on anthropic", PROBLEM, anthropic(*TOO_LONG["Anthropic"]), "1 failed: 400",
        "too long", model=ANTHROPIC),
    *(row(f"blocked by {name}", PROBLEM, error(*told), "1 failed", "blocked")
      for name, told in BLOCKED_BY.items()),
    row("blocked by a filter with a code only", PROBLEM,
        error(400, "The request was refused.", code="content_filter"), "blocked"),
    row("blocked on openrouter", PROBLEM, error(*BLOCKED_BY["OpenRouter"]), "403", "blocked",
        model=OPENROUTER),
    row("blocked on anthropic", PROBLEM, anthropic(*BLOCKED_BY["Anthropic"]), "blocked",
        model=ANTHROPIC),
    row("blocked on hosted_vllm", PROBLEM, error(*BLOCKED_BY["Zhipu"]), "blocked", model=VLLM),
    *(
        row(f"blocked with 200 {reason} on {model.split('/')[0]}", PROBLEM,
            Reply(text, finish=reason), "1 failed", "blocked", model=model)
        for reason, text, model in [
            ("content_filter", "", OPENAI), ("content_filter", None, VLLM),
            ("content_filter", "```lua\nretu", OPENROUTER), ("content_filter", "", DEEPSEEK),
            ("SAFETY", "", OPENAI), ("RECITATION", "```lua\nretu", OPENAI), ("SAFETY", "", VLLM),
            ("PROHIBITED_CONTENT", "", OPENAI), ("SPII", "", OPENAI), ("BLOCKLIST", "", OPENAI),
            ("sensitive", "", OPENAI), ("refusal", "", ANTHROPIC),
        ]
    ),
    row("a native finish_reason of SAFETY", PROBLEM,
        Reply("", choice={"native_finish_reason": "SAFETY"}), "blocked", model=OPENROUTER),
    *(
        row(f"a refusal on {model.split('/')[0]}", PROBLEM,
            Reply(None, message={"refusal": "I cannot help with that."}), "blocked",
            "I cannot help with that", model=model)
        for model in (OPENAI, VLLM, OPENROUTER)
    ),
    row("blocked in 200 by MiniMax", PROBLEM, Reply(body={"choices": None, "base_resp": {
        "status_code": 1026, "status_msg": "input contains sensitive content"}}), "blocked"),
    row("400 for a reason of its own", PROBLEM, error(400, "Cannot tokenize."), "Cannot tokenize"),
    row("422 on one", PROBLEM, Reply(status=422, body={"detail": [{"msg": "bad escape"}]}),
        "422", "bad escape", model=VLLM),
    row("413 in HTML", PROBLEM, Reply(status=413, body="<h1>413 Request Entity Too Large</h1>",
        headers={"Content-Type": "text/html"}), "413", "Request Entity Too Large"),
]  # fmt: skip

# --- of the whole run ---

USED_UP = {
    "OpenAI": (429, "You exceeded your current quota, please check your plan and billing details. "
               "For more information on this error, read the docs: https://platform.openai.com/"
               "docs/guides/error-codes/api-errors."),
    "OpenAI inactive": (429, "Your account is not active, please check your billing details on our "
                        "website."),
    "OpenAI hard limit": (400, "Billing hard limit has been reached"),
    "Anthropic": (400, "Your credit balance is too low to access the Anthropic API. Please go to "
                  "Plans & Billing to upgrade or purchase credits."),
    "Anthropic limits": (400, "You have reached your specified API usage limits. You will regain "
                         "access on 2126-12-01 at 00:00 UTC."),
    "DeepSeek": (402, "Insufficient Balance"),
    "OpenRouter": (402, "This request requires more credits, or fewer max_tokens. You requested up "
                   "to 5000 tokens, but can only afford 1234. To increase, visit https://openrouter."
                   "ai/settings/credits and upgrade to a paid account"),
    "Zhipu": (429, "余额不足或无可用资源包,请充值。"),
    "Zhipu overdue": (429, "您的账户已欠费，请充值后重试。"),  # noqa: RUF001
    "DashScope": (400, "Access denied, please make sure your account is in good standing."),
    "DashScope free": (429, "Free allocated quota exceeded."),
    "Moonshot": (429, "Your account org-1<ak-1> is suspended due to insufficient balance, please "
                 "recharge your account or check your plan and billing details"),
    "SiliconFlow": (403, "Sorry, your account balance is insufficient"),
    "Volcengine": (403, "The request failed because your account has an overdue balance."),
    "xAI": (429, "Your team 1 has either used all available credits or reached its monthly spending"
            " limit. To continue making API requests, please purchase more credits or raise your "
            "spending limit."),
    "Fireworks": (412, "Account me is suspended, possibly due to reaching the monthly spending "
                  "limit or failure to pay past invoices."),
    "Together": (429, "Credit limit exceeded, please navigate to https://api.together.ai/settings/"
                 "billing to add credit to your account"),
    "Hugging Face": (402, "You have depleted your monthly included credits. Purchase pre-paid "
                     "credits to continue using Inference Providers."),
    "Mistral": (429, "Monthly spend limit reached"),
    "Cerebras": (402, "Payment required to access this resource."),
    "one-api": (403, "user quota is not enough"),
    "one-api in Chinese": (403, "用户额度不足, 剩余额度: 0.00"),
    "in French": (429, "Votre solde est insuffisant. Rechargez votre compte."),
    "in Spanish": (429, "Saldo insuficiente, recargue su cuenta"),
    "in German": (400, "Ihr Guthaben ist aufgebraucht."),
    "in Portuguese": (400, "Créditos insuficientes"),
    "in Italian": (429, "Credito esaurito, effettuare un pagamento"),
    "in Russian": (429, "Недостаточно средств на балансе"),
    "in Japanese": (429, "残高が不足しています。"),
    "in Korean": (400, "잔액이 부족합니다."),
    "LiteLLM proxy": (422, "Budget has been exceeded! Current cost: 0.0012, Max budget: 0.001"),
    "LiteLLM proxy as 400": (400, "ExceededBudget: End User=me over budget. Spend=1.2, Budget=1"),
    "LiteLLM deployment": (429, "No deployments available - crossed budget: Exceeded budget for "
                           "deployment model_name: budgeted: 0.00307 >= 0.001"),
}  # fmt: skip
OF_THE_RUN = [
    *(row(f"used up: {name}", RUN, error(*told), "credit used up", "balance, credit or quota",
          "(1 of 4 answered)") for name, told in USED_UP.items()),
    row("used up on anthropic", RUN, anthropic(*USED_UP["Anthropic"]), "credit used up",
        model=ANTHROPIC),
    row("used up on hosted_vllm", RUN, error(*USED_UP["Moonshot"]), "credit used up", model=VLLM),
    row("used up on deepseek", RUN, error(*USED_UP["DeepSeek"]), "credit used up", model=DEEPSEEK),
    row("used up on openrouter", RUN, error(*USED_UP["OpenRouter"]), "credit", model=OPENROUTER),
    row("used up at the proxy", RUN, error(*USED_UP["LiteLLM proxy"]), "credit", model=PROXY),
    row("used up with a code only", RUN, error(429, "Denied.", code="insufficient_quota"),
        "credit used up"),
    row("used up at OpenRouter's key", RUN, error(403, "Key limit exceeded (total limit). Manage it"
        " using https://openrouter.ai/settings/keys"), "403", model=OPENROUTER),
    row("used up in 200 as text", RUN, Reply(body={"error": "余额不足", "choices": [
        {"message": {"content": "x"}}]}), "余额不足", "credit used up"),
    row("used up in 200", RUN, Reply(body={"error": {"message": "Insufficient Balance"}}),
        "credit used up"),
    row("used up in 200 by MiniMax", RUN, Reply(body={"choices": None, "base_resp": {
        "status_code": 1008, "status_msg": "insufficient balance"}}), "credit used up"),
    row("a key revoked on the way", RUN, error(401, "Invalid token"), "401", "key",
        "(1 of 4 answered)"),
    *(row(f"{status} redirect", RUN,
          Reply(status=status, headers={"Location": "/elsewhere/v1/chat/completions"}, body=""),
          "/elsewhere/v1", "api_base") for status in (301, 302, 303, 307, 308)),
    row("a redirect on hosted_vllm", RUN, Reply(status=307, headers={
        "Location": "https://login.example.com/sso"}, body=""), "https://login.example.com/sso",
        model=VLLM),
    *(row(name, RUN, reply, "until 2") for name, reply in {
        "a Retry-After of hours": Reply(status=429, headers={"Retry-After": "20000"}),
        "a Retry-After of a date": Reply(status=503, headers={
            "Retry-After": "Fri, 31 Dec 2126 23:59:59 GMT"}),
        "a Retry-After beyond all dates": Reply(status=429, headers={"Retry-After": "1e30"}),
        "a proxy's Retry-After of hours": Reply(status=429, headers={
            "llm_provider-retry-after": "86400"}),
    }.items()),
]  # fmt: skip

# --- from the first request on ---

NEVER = [
    *(
        row(name, FROM_THE_START, error(status, text), *says, model=model,
            options=("--param", "foo=1") if "foo=1" in says else ())
        for name, status, text, says, model in [
            ("key of OpenAI", 401, "Incorrect API key provided: sk-1***2.",
             ["check the provider's key"], OPENAI),
            ("key of vLLM", 401, "Unauthorized", ["check the provider's key"], VLLM),
            ("key on anthropic", 401, "Incorrect API key provided",
             ["check the provider's key"], ANTHROPIC),
            ("key of Anthropic", 401, "invalid x-api-key", ["key"], ANTHROPIC),
            ("key of Gemini", 400, "API key not valid. Please pass a valid API key.", ["key"],
             OPENAI),
            ("key of one-api", 401, "无效的令牌", ["key"], VLLM),
            ("key of a proxy without a database", 400, "Authentication Error, No connected db.",
             ["key"], PROXY),
            ("403", 403, "Project `p` does not have access to model `gpt-4o`", ["403"], OPENAI),
            ("country", 403, "Country, region, or territory not supported", ["403"], OPENAI),
            ("model of OpenAI", 404, "The model `x` does not exist", ["check --model"], OPENAI),
            ("model of Ollama", 404, "model 'x' not found, try pulling it first",
             ["check --model"], OPENAI),
            ("model of OpenRouter", 400, "x/y is not a valid model ID", ["check --model"],
             OPENROUTER),
            ("model of DeepSeek", 400, "Model Not Exist", ["check --model"], DEEPSEEK),
            ("model of a proxy", 400, "Invalid model name passed in model=x. Call `/v1/models` to "
             "view available models for your key.", ["check --model"], PROXY),
            ("model of Zhipu", 400, "模型不存在，请检查模型代码。", ["--model"], OPENAI),  # noqa: RUF001
            ("path", 404, "Not Found", ["address"], VLLM),
            ("max_tokens of o3", 400, "Unsupported parameter: 'max_tokens' is not supported with "
             "this model. Use 'max_completion_tokens' instead.",
             ["--max-tokens none --param max_completion_tokens=5000"], OPENAI),
            ("temperature of o3", 400, "Unsupported value: 'temperature' does not support 0.2 with "
             "this model. Only the default (1) value is supported.", ["--temperature none"],
             OPENAI),
            ("top_p of o3", 400, "Unsupported parameter: 'top_p' is not supported with this model.",
             ["--top-p none"], OPENROUTER),
            ("both of Claude", 400, "`temperature` and `top_p` cannot both be specified for this "
             "model. Please use only one.", ["--temperature none --top-p none"], ANTHROPIC),
            ("parameter of OpenAI", 400, "Unrecognized request argument supplied: foo", ["foo=1"],
             OPENAI),
            ("parameter of Mistral", 422, "Extra inputs are not permitted: foo", ["foo=1"], VLLM),
        ]
    ),
    *(
        row(f"max_tokens of {name}", ALIKE, error(status, text), "lower --max-tokens", model=model)
        for name, status, text, model in [
            ("vLLM", 400, "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's"
             " maximum context length is 4096 tokens and your request has 60 input tokens (5000 > "
             "4096 - 60).", VLLM),
            ("a later vLLM", 400, "This model's maximum context length is 1024 tokens. However, you"
             " requested 5000 output tokens and your prompt contains at least 60 input tokens, for "
             "a total of at least 5060 tokens. Please reduce the length of the input prompt or the "
             "number of requested output tokens.", VLLM),
            ("an older OpenAI", 400, "This model's maximum context length is 4097 tokens, however "
             "you requested 5061 tokens (61 in your prompt; 5000 for the completion). Please reduce"
             " your prompt; or completion length.", OPENAI),
            ("OpenAI", 400, "max_tokens is too large: 5000. This model supports at most 4096 "
             "completion tokens, whereas you provided 5000.", OPENAI),
            ("DeepSeek", 400, "Invalid max_tokens value, the valid range of max_tokens is [1, "
             "4096]", DEEPSEEK),
            ("DashScope", 400, "Range of max_tokens should be [1, 2000]", OPENAI),
            ("Groq", 400, "`max_tokens` must be less than or equal to `4096`, the maximum value for"
             " `max_tokens` is less than the `context_window` for this model", OPENAI),
            ("Claude", 400, "max_tokens: 5000 > 4096, which is the maximum allowed number of output"
             " tokens for claude-3-haiku-20240307", ANTHROPIC),
            ("Claude's context", 400, "input length and `max_tokens` exceed context limit: 195061 +"
             " 5000 > 200000, decrease input length or `max_tokens` and try again", ANTHROPIC),
            ("TGI", 422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= "
             "4096. Given: 60 `inputs` tokens and 5000 `max_new_tokens`", OPENAI),
            ("SGLang", 400, "Requested token count exceeds the model's maximum context length of "
             "4096 tokens. You requested a total of 5060 tokens: 60 tokens from the input messages "
             "and 5000 tokens for the completion. Please reduce the number of tokens in the input "
             "messages or the completion to fit within the limit.", VLLM),
        ]
    ),
    row("400 alike", ALIKE, error(400, "Something that no table knows"), "all requests fail alike",
        "Something that no table knows"),
]  # fmt: skip

# --- answers ---

PARTS = [{"type": "text", "text": "Here it is.\n\n"}, {"type": "text", "text": ANSWER[13:]}]
ANSWERS = [
    *(
        row(f"content in parts on {model.split('/')[0]}", ANSWER_IT_IS, Reply(content), model=model)
        for model in (OPENAI, VLLM, OPENROUTER, DEEPSEEK)
        for content in (PARTS, [{"type": "thinking", "thinking": PARTS[:1]}, *PARTS])
    ),
    *(
        row(f"finish {reason} on {model.split('/')[0]}", ANSWER_IT_IS, Reply(finish=reason),
            model=model)
        for reason in ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "", None)
        for model in (OPENAI, VLLM)
    ),
    row("no usage", ANSWER_IT_IS, Reply(usage=None)),
    row("blanks before the answer", ANSWER_IT_IS, Reply(blanks=0.3)),
    row("an answer of an unknown model's name", ANSWER_IT_IS, Reply(), model="openai/a/b:c@d"),
    row("a refusal beside an answer", ANSWER_IT_IS, Reply(message={"refusal": ""})),
    row("an error field that is null", ANSWER_IT_IS, Reply(choice={"error": None})),
    row("a charset that nobody knows", ANSWER_IT_IS,
        Reply(headers={"Content-Type": "application/json; charset=undefined"})),
    row("content in parts of text", ANSWER_IT_IS, Reply([ANSWER[:9], ANSWER[9:]])),
    row("a strange content type", ANSWER_IT_IS, Reply(headers={"Content-Type": "text/plain"})),
]  # fmt: skip


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("outcome", "reply", "says", "model", "options"),
    OF_ONE_PROBLEM + OF_THE_RUN + NEVER + ANSWERS,
)
def test_what_does_not_pass_concerns_a_problem_or_the_run(
    server, command, told, outcome, reply, says, model, options
):
    code, answers, requests = outcome
    always = not answers
    server.replies = lambda request: reply if always or request.problem == 1 else Reply()
    write_problems(30 if always else 4)
    options = (*at(server, model), "--batch-size", 2, *options)
    assert main(command(*options)) == code
    lines = told()
    assert sorted(answered()) == answers and len(server.requests) == requests
    assert server.gets == []  # a POST that was redirected as a GET has lost its prompt
    assert {row["response"] for row in read_jsonl()} <= {ANSWER}
    place = lines if outcome is PROBLEM else last_line(lines)
    assert [words for words in says if words not in place] == [], lines


# --- what is shown of a failure ---


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"error": "The upstream is gone."}, "The upstream is gone"),
        ({"error": {"message": "Provider returned error", "code": 502}}, "Provider returned error"),
        ({"object": "error", "message": "The engine is dead."}, "The engine is dead"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        ("<html><title>Maintenance</title><p>Back at noon.</p></html>", "Maintenance Back at noon"),
    ],
)
@pytest.mark.parametrize("model", [OPENAI, VLLM])
def test_the_text_of_an_error_with_status_200_is_shown(server, command, told, body, text, model):
    server.replies = lambda request: Reply(body=body)
    write_problems(1)
    assert main(command(*at(server, model), "--max-retries", 0)) == 1
    (line,) = [line for line in told().split("\n") if "1 failed" in line]
    assert text in " ".join(line.split()) and "<" not in line and "{" not in line
    assert answered() == []


BALANCE = 'Class "Account" has a balance;\nadd deposit, payment and "billing" with unpaid invoices.'
CHINESE = "实现一个函数, 计算账户余额, 充值后返回余额。"


@pytest.mark.parametrize(
    ("prompt", "status", "echo"),
    [
        (BALANCE, 400, lambda prompt: prompt),
        (BALANCE, 400, lambda prompt: repr(prompt)),
        (BALANCE, 400, lambda prompt: f"[{{'role': 'user', 'content': {prompt!r}}}]"),
        (BALANCE, 422, lambda prompt: json.dumps(prompt)),
        (CHINESE, 400, lambda prompt: prompt),
    ],
    ids=["whole", "repr", "messages", "json", "Chinese"],
)
def test_a_prompt_that_speaks_of_money_ends_no_run_where_it_is_echoed(
    server, command, told, echo, prompt, status
):
    server.replies = lambda request: (
        error(status, f"Cannot tokenize {echo(request.prompt)}")
        if prompt in request.prompt
        else Reply()
    )
    problems = [{"task_id": n, "prompt": f"Problem {n}."} for n in range(6)]
    problems[2]["prompt"] = prompt
    Path("problems.jsonl").write_text(jsonl(problems))
    assert main(command("--batch-size", 2)) == 1
    assert answered() == [0, 1, 3, 4, 5] and len(server.requests) == 6, told()


def test_an_error_that_shares_a_few_words_with_a_prompt_is_told_whole(server, command, told):
    text = "Your credit balance is too low to access the API"
    server.replies = lambda request: error(400, text)
    prompt = "Print a warning if the credit balance is too low."
    Path("problems.jsonl").write_text(jsonl([{"task_id": 0, "prompt": prompt}]))
    assert main(command()) == 1
    assert f"400 credit used up: {text};" in told()


@pytest.mark.parametrize("status", [400, 401, 500])
@pytest.mark.parametrize("model", [OPENAI, VLLM, ANTHROPIC, OPENROUTER])
def test_a_key_that_the_server_echoes_is_masked(server, command, told, monkeypatch, status, model):
    monkeypatch.setenv("HOSTED_VLLM_API_KEY", KEY)
    server.replies = lambda request: Reply(
        status=status, error=f"Bad key {request.key} in {dict(request.headers)}."
    )
    write_problems(2)
    assert main(command(*at(server, model), "--max-retries", 0)) == 1
    assert {request.key for request in server.requests} == {KEY}
    everything = told() + Path("out.jsonl.run.json").read_text()
    assert "Bad key ***" in everything and KEY not in everything


@pytest.mark.parametrize("more", ["x is not y " * 10**5, "x" * 10**6])
def test_an_error_of_megabytes_is_told_in_one_line(server, command, told, more):
    server.replies = lambda request: error(400, "Too much of it. " + more)
    write_problems(2)
    began = time.process_time()
    assert main(command()) == 1
    assert time.process_time() - began < 4
    lines = told()
    assert "2 failed: 400 refused: " in lines and "Too much of it" in lines and len(lines) < 2000


# --- when to come back ---


@pytest.mark.parametrize("model", [OPENAI, PROXY])
def test_the_time_that_a_server_names_is_waited_for(server, command, model):
    names = ["Retry-After", "llm_provider-retry-after"]
    server.replies = lambda request: (
        Reply(status=429, headers={names[request.problem]: "2"})
        if request.attempt == 1
        else Reply()
    )
    write_problems(2)
    each = ("--batch-size", 1, "--concurrent-batches", 2)  # which waits for its own time
    assert main(command(*at(server, model), *each)) == 0
    for problem in (0, 1):
        first, second = (r.arrived for r in server.requests if r.problem == problem)
        assert 2 <= second - first < 8


def test_a_rate_limit_that_names_no_time_is_outlasted_by_a_minute(server, command, pauses):
    server.replies = lambda request: Reply(status=429, error="Slow down.")
    write_problems(1)
    assert main(command()) == 1
    assert len(pauses) == 5 and 60 < sum(pauses) < 240


def test_a_server_that_drips_blanks_does_not_hold_a_request_for_ever(server, command, told):
    server.replies = lambda request: Reply(blanks=20)
    write_problems(1)
    assert main(command("--timeout", 0.5, "--max-retries", 0)) == 1
    assert "timeout" in told() and answered() == []


# --- a server that is gone, or never was there ---


def test_ten_requests_in_a_row_with_no_answer_end_the_run(server, command, quick, told):
    server.replies = lambda request: Reply(status=200 if len(server.requests) <= 12 else 503)
    write_problems(40)
    assert main(command("--batch-size", 2, "--max-retries", 1)) == 1
    assert len(answered()) == 12 and len(server.requests) == 12 + 2 * 10
    assert "12 of 40 answered" in last_line(told())
    server.replies = lambda request: Reply()
    assert main(command()) == 0
    assert sorted(answered()) == list(range(40)) and len(server.requests) == 32 + 28


def test_a_server_that_dies_in_mid_run_ends_it(server, command, quick, told):
    def replies(request):
        if len(server.requests) == 12:
            server.stop()
        return Reply()

    server.replies = replies
    write_problems(1000)
    assert main(command("--batch-size", 2, "--max-retries", 1)) == 1
    end = last_line(told())
    assert answered() == list(range(len(answered()))) and 10 <= len(answered()) <= 12
    assert "ten requests in a row" in end and server.url in end


def test_single_failures_between_answers_do_not_end_a_run(server, command, quick):
    server.replies = lambda request: Reply(status=200 if request.problem % 10 == 0 else 500)
    write_problems(20)
    assert main(command("--batch-size", 1, "--max-retries", 0)) == 1
    assert len(answered()) == 2 and len(server.requests) == 20


@pytest.mark.parametrize("model", [OPENAI, VLLM, ANTHROPIC, PROXY])
def test_a_forgotten_server_is_told_by_its_address_at_once(command, pauses, told, model):
    with FakeLLM() as gone:
        pass
    write_problems(30)
    assert main(command(*at(gone, model), "--batch-size", 2)) == 1
    end = last_line(told())
    assert gone.url in end and "is the server up" in end and not pauses
    assert not re.search(r"\b(500|503)\b", end)  # no server sent one


def test_a_server_that_is_not_back_yet_is_asked_again(server, command, pauses, told):
    write_problems(3)
    assert main(command("--limit", 1)) == 0
    with FakeLLM() as gone:
        pass
    assert main(command(*at(gone, OPENAI), "--max-retries", 2)) == 1
    assert len(pauses) == 2 and "2 failed: no connection" in told()


OWN_SERVERS = {
    "hosted_vllm": "HOSTED_VLLM_API_BASE",
    "litellm_proxy": "LITELLM_PROXY_API_BASE",
    "lm_studio": "LM_STUDIO_API_BASE",
    "xinference": "XINFERENCE_API_BASE",
    "custom_openai": "api_base=",
}


@pytest.mark.parametrize("provider", OWN_SERVERS)
def test_a_server_of_ones_own_without_its_address_gets_nothing_sent_elsewhere(
    server, command, told, monkeypatch, provider
):
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")  # in place of api.openai.com
    monkeypatch.setenv(f"{provider.upper()}_API_KEY", "sk-private-key-1")
    monkeypatch.setenv(f"{provider.upper()}_API_BAES", "http://127.0.0.1:9")  # misspelt
    write_problems(3)
    assert main(without_address(command("--model", f"{provider}/any"))) == 1
    assert server.requests == [] and server.gets == []
    end = last_line(told())
    assert OWN_SERVERS[provider] in end and "sk-private-key-1" not in end


def test_prompts_that_are_too_long_end_no_run_that_has_an_answer(server, command, told):
    long = error(*TOO_LONG["OpenAI"])
    server.replies = lambda request: long if 2 <= request.problem < 14 else Reply()
    write_problems(16)
    assert main(command("--limit", 2)) == 0
    assert main(command("--batch-size", 1, "--concurrent-batches", 2)) == 1
    assert sorted(answered()) == [0, 1, 14, 15] and len(server.requests) == 16
    assert "12 failed: 400 too long" in told()


# --- answers that are less than whole ---


@pytest.mark.parametrize("model", [OPENAI, VLLM, OPENROUTER, DEEPSEEK])
@pytest.mark.parametrize(
    "fields",
    [
        *({"reasoning": ANSWER}, {"reasoning_content": ANSWER}),
        *({"reasoning": ANSWER, "reasoning_content": empty} for empty in (None, "")),
    ],
)
def test_an_answer_in_the_reasoning_only_is_an_empty_record_counted_apart(
    server, command, told, model, fields
):
    reply = Reply(None, message=fields)
    server.replies = lambda request: reply if request.problem else Reply(None)
    write_problems(2)
    assert main(command(*at(server, model), "--details")) == 0
    assert [(row["response"], row["program"]) for row in read_jsonl()] == [("", None)] * 2
    kept = {row["task_id"]: row["details"]["reasoning"] for row in read_jsonl()}
    assert kept == {0: None, 1: ANSWER}
    lines = told()
    assert "1 with reasoning only" in lines and "2 empty, 2 without a program" in lines


@pytest.mark.parametrize(
    ("used", "says"), [(5000, "raise it"), (900, "the model's context is full before that")]
)
@pytest.mark.parametrize("model", [OPENAI, VLLM])
def test_a_cut_off_answer_says_whether_max_tokens_or_the_context_was_short(
    server, command, told, model, used, says
):
    usage = {"prompt_tokens": 100, "completion_tokens": used, "total_tokens": 100 + used}
    server.replies = lambda request: Reply("```lua\nreturn", finish="length", usage=usage)
    write_problems(2)
    assert main(command(*at(server, model))) == 0
    assert [row["program"] for row in read_jsonl()] == ["return"] * 2
    lines = told()
    assert "100.0% cut off at --max-tokens 5000" in lines and says in lines


# --- mistakes of one's own: nothing is sent, and nothing is tried again ---


@pytest.mark.parametrize("model", [OPENAI, VLLM])
@pytest.mark.parametrize(
    ("param", "says"),
    [
        ("extra_body=[1]", "extra_body"),
        ("extra_headers=abc", "extra_headers"),
        ("api_base=127.0.0.1:8000/v1", "127.0.0.1:8000"),
        ("api_base=localhost/v1", "localhost/v1"),
    ],
)
def test_a_value_that_cannot_be_sent_is_named_at_once(
    server, command, told, pauses, model, param, says
):
    write_problems(30)
    assert main(command("--model", model, "--param", param, "--batch-size", 2)) == 1
    end = last_line(told())
    assert says in end and "500" not in end and "server up" not in end
    assert server.requests == [] and pauses == []


def test_a_number_that_json_cannot_hold_is_refused_as_usage(command, told):
    write_problems(1)
    with pytest.raises(SystemExit) as stop:
        main(command("--param", "seed=1e999"))
    assert stop.value.code == 2 and "--param seed: Out of range float" in told()


@pytest.mark.parametrize("model", [OPENAI, VLLM, ANTHROPIC])
def test_a_key_that_ends_in_a_newline_is_told_of(server, command, told, pauses, model):
    write_problems(6)
    options = (*at(server, model), "--param", f"api_key={KEY}9\n", "--batch-size", 2)
    assert main(command(*options)) in (0, 1)
    end = last_line(told())
    assert pauses == [] and f"{KEY}9" not in end
    if server.requests:  # a client may take the newline off
        assert len(answered()) == 6
    else:
        assert "500" not in end and "server up" not in end and "api_key" in end


@pytest.mark.parametrize("model", [OPENAI, VLLM])
def test_half_a_surrogate_pair_is_refused_by_row(server, command, told, model):
    Path("problems.jsonl").write_text('{"prompt": "x"}\n{"prompt": "a \\ud800 b"}\n')
    assert main(command(*at(server, model))) == 1
    assert "row 2: half a surrogate pair" in last_line(told()) and server.requests == []


# --- TLS ---


@pytest.mark.parametrize("model", [OPENAI, VLLM, ANTHROPIC])
def test_a_certificate_that_nobody_trusts_is_told_at_once(
    command, told, pauses, monkeypatch, model
):
    monkeypatch.setenv("GIT_PAGER", "cat")  # a part of "certificate"
    write_problems(30)
    with FakeLLM(tls=True) as server:
        assert main(command(*at(server, model), "--batch-size", 2)) == 1
        assert server.requests == [] and pauses == []
    end = last_line(told())
    assert "CERTIFICATE_VERIFY_FAILED" in end and "SSL_CERT_FILE" in end
    assert "GIT_PAGER" not in end


@pytest.mark.parametrize("model", [OPENAI, VLLM])
def test_a_certificate_can_be_trusted_by_ssl_cert_file(command, told, monkeypatch, model):
    Path("ca.pem").write_text(CERTIFICATE[CERTIFICATE.index("-----BEGIN CERT") :])
    monkeypatch.setenv("SSL_CERT_FILE", str(Path("ca.pem").resolve()))
    write_problems(3)
    with FakeLLM(tls=True) as server:
        assert main(command(*at(server, model))) == 0, told()
    assert len(answered()) == 3


@pytest.mark.parametrize("model", [OPENAI, VLLM])
def test_https_to_an_http_server_says_so(server, command, told, pauses, model):
    write_problems(30)
    url = server.url.replace("http:", "https:")
    options = ("--model", model, "--param", f"api_base={url}/v1", "--batch-size", 2)
    assert main(command(*options)) == 1
    end = last_line(told())
    assert "http://, not https://" in end and len(pauses) <= 1 and server.requests == []


def test_a_handshake_that_hangs_says_what_it_looks_like(command, told, quick):
    write_problems(3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/v1"
        assert main(command("--param", f"api_base={url}", "--timeout", 0.3)) == 1
    end = last_line(told())
    assert url in end and "not https://" in end and not answered()


# --- machines ---


def full_at(server: FakeLLM, requests: int):
    """Let no request be answered until so many are in flight."""
    full = threading.Event()

    def replies(request):
        if server.peak >= requests:
            full.set()
        full.wait(60)
        full.set()  # or never
        return Reply()

    server.replies = replies


def test_a_soft_limit_of_open_files_is_raised(server, command, told):
    resource = pytest.importorskip("resource")
    full_at(server, 64)
    write_problems(70)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/dev/fd")) + 100  # as the 256 of a shell on macOS
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        assert main(command("--batch-size", 1, "--concurrent-batches", 64)) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(answered()) == 70 == len(server.requests) and server.peak == 64, told()


@pytest.mark.parametrize("sizes", [(1, 300), (300, 1)])
def test_a_hard_limit_of_open_files_is_told_and_loses_nothing(server, start, sizes):
    pytest.importorskip("resource")
    full_at(server, 48)
    write_problems(96)
    options = ("--batch-size", sizes[0], "--concurrent-batches", sizes[1])
    code, told = start(*options, limits={"RLIMIT_NOFILE": 256}).end()
    assert code == 0, told
    assert len(answered()) == 96 == len(server.requests) and server.peak == 48
    size, most = (min(number, 48) for number in sizes)
    assert f"allow --batch-size {size} --concurrent-batches {most}," in told.split("\n")[0]
    assert run_file()["totals"]["requests"] == 96


@pytest.fixture
def left():
    """A pipe that nobody reads any more."""
    ours, theirs = os.pipe()
    os.close(ours)
    yield theirs
    os.close(theirs)


@pytest.fixture
def full():
    with open("/dev/full", "wb") as file:
        yield file.fileno()


def test_a_run_goes_on_where_nobody_can_be_told(server, start, left, full):
    write_problems(20)
    server.replies = lambda request: Reply(
        status=400 if request.problem == 7 and request.body["top_p"] == 1 else 200
    )
    stderr = {"closed": CLOSED, "a pipe that is left": left, "full": full}
    failing = [0, 0, 1]
    runs = [
        start("--output-path", f"{name}.jsonl", "--top-p", fails, stderr=file)
        for (name, file), fails in zip(stderr.items(), failing, strict=True)
    ]
    assert [run.end() for run in runs] == [(fails, "") for fails in failing]
    assert [len(read_jsonl(f"{name}.jsonl")) for name in stderr] == [20 - n for n in failing]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", "ALL_PROXY"),
        ("all_proxy", "socks5h://127.0.0.1:9", "all_proxy"),
        ("NO_PROXY", "[::1", "NO_PROXY"),
        ("NO_PROXY", "::1,fd00::/8", "NO_PROXY"),
        ("HTTP_PROXY", "nonsense", "HTTP_PROXY"),
        ("HTTPS_PROXY", "ftp://127.0.0.1:9", "HTTPS_PROXY"),
    ],
)
@pytest.mark.parametrize("model", [OPENAI, VLLM])
def test_a_proxy_setting_that_cannot_work_is_one_line_that_names_it(
    server, command, told, quick, monkeypatch, model, name, value, says
):
    monkeypatch.setenv(name, value)
    write_problems(3)
    assert main(command(*at(server, model))) == 1
    (line,) = told().strip().split("\n")
    assert says in line and server.requests == []


def test_a_proxy_that_is_down_is_named(server, command, told, monkeypatch, quick):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    write_problems(3)
    assert main(command()) == 1
    assert "HTTP_PROXY" in last_line(told()) and server.requests == []


def test_what_no_proxy_lists_is_asked_without_one(server, command, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    write_problems(3)
    assert main(command()) == 0 and len(answered()) == 3


# Read when litellm and tqdm are imported, so by a process that has neither. The run may go on or
# be refused.
VARIABLES = ["SSL_CERT_FILE", "TQDM_MININTERVAL", "REQUEST_TIMEOUT", "LITELLM_LOG"]


def test_no_variable_of_the_environment_leads_to_a_traceback(start):
    write_problems(3)
    runs = [
        start("--output-path", f"{name}.jsonl", imported="libraries", **{name: "/no/sense"})
        for name in VARIABLES
    ]
    for name, run in zip(VARIABLES, runs, strict=True):
        code, told = run.end(120)
        kept = len(read_jsonl(f"{name}.jsonl")) if Path(f"{name}.jsonl").exists() else 0
        assert (code, kept) in ((0, 3), (1, 0)), told
        assert code == 0 or name in last_line(told) or "/no/sense" in last_line(told), told


def test_columns_that_are_no_number_do_no_harm(server, command, told, monkeypatch):
    monkeypatch.setenv("COLUMNS", "abc")
    write_problems(3)
    assert main(command()) == 0 and "3 of 3 answered" in told()


def test_the_bar_fits_the_terminal_also_after_it_was_resized(server, start):
    pty = pytest.importorskip("pty")
    import fcntl
    import termios

    server.replies = lambda request: (
        Reply(status=400, seconds=0.07) if request.problem == 1 else Reply(seconds=0.07)
    )
    write_problems(40)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))
    run = start("--batch-size", 1, *at(server, "openai/gpt-4.1-nano"), stderr=theirs)
    os.close(theirs)
    shown, wide = b"", b""
    while True:
        try:
            shown += os.read(ours, 10_000)
        except OSError:  # the other end is closed
            break
        if not wide and re.search(rb"1\d/40", shown):
            wide, shown = shown, b""
            fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 50, 0, 0))
    os.close(ours)
    assert run.end(10) == (1, "")
    states = [line for line in re.split(r"[\r\n]+", wide.decode()) if "/40" in line]
    assert max(map(len, states)) <= 80 and b"\n" not in wide.strip()
    assert re.search(r"\d+/40 answers, 1 failed, \$0\.\d+.*left", states[-1])
    narrow = [line for line in re.split(r"[\r\n]+", shown.decode()) if "/40 answers" in line]
    assert max(map(len, narrow[3:])) <= 50
    bar = shown.decode().split("39 of 40 answered")[0]
    assert bar.count("\n") <= 2
