// `stuffed generate`: where the prompt comes from, and how the new text is shown.
#include "stuffed/eval/generate.h"

#include <cmath>
#include <memory>

#include <ATen/ATen.h>

#include "src/cli/app.h"
#include "src/cli/options.h"
#include "src/cli/print.h"
#include "stuffed/core/error.h"
#include "stuffed/io/atomic_file.h"
#include "stuffed/io/regular_file.h"
#include "stuffed/io/tensor_file.h"

namespace stuffed::cli {

namespace {

struct Options {
  ModelOptions model;
  std::string prompt, prompt_file, tokens, tokens_key = "tokens";
  std::string save_state, load_state;
  std::optional<double> temperature, top_p;
  std::optional<int64_t> top_k;
  eval::GenerateOptions how;
  bool json = false;
};

/// Row 0 of a token file.
std::vector<int32_t> read_tokens(const std::string& path, const std::string& key) {
  const auto file = io::TensorFile::open(path);
  check(file.has(key), Error::Kind::Input, "{}: has no tensor '{}'; name it with --tokens-key",
        path, key);
  const Tensor tokens = file.load(key);
  check(at::isIntegralType(tokens.scalar_type(), false) && tokens.dim() == 2 && tokens.size(0) > 0,
        Error::Kind::Input, "{}: '{}' is {} with {} axes, expected integers [documents, N]", path,
        key, at::toString(tokens.scalar_type()), tokens.dim());
  const Tensor wide = tokens.select(0, 0).to(at::kLong);
  const Tensor row = wide.to(at::kInt).contiguous();
  check(at::equal(row.to(at::kLong), wide), Error::Kind::Input, "{}: a token id exceeds 31 bits",
        path);
  return {row.const_data_ptr<int32_t>(), row.const_data_ptr<int32_t>() + row.numel()};
}

std::vector<int32_t> read_prompt(const Options& options, const io::Tokenizer* tokenizer) {
  if (!options.tokens.empty())
    return read_tokens(options.tokens, options.tokens_key);
  const std::string text =
      options.prompt_file.empty() ? options.prompt : io::read_regular_file(options.prompt_file);
  return text.empty() ? std::vector<int32_t>{} : tokenizer->encode(text);
}

/// Null where only token ids are asked for and the model's folder has no tokenizer.
std::shared_ptr<const io::Tokenizer> find_tokenizer(const Options& options) {
  const bool needed =
      options.tokens.empty() && !(options.prompt.empty() && options.prompt_file.empty());
  // A text that goes on after a saved state is no beginning.
  const io::TokenizerOptions how = {.add_bos = options.load_state.empty()};
  try {
    return open_tokenizer(options.model, how);
  } catch (const Error&) {
    if (needed || !options.model.tokenizer.empty() || !options.how.stop.empty() ||
        options.how.stop_eos)
      throw;
    return nullptr;
  }
}

/// Passes on whole UTF-8 sequences only, so that a terminal never sees half a character.
class TextStream {
 public:
  void add(const std::string& bytes) {
    pending_ += bytes;
    size_t whole = pending_.size();
    for (size_t back = 1; back <= std::min<size_t>(3, pending_.size()); ++back) {
      const auto byte = static_cast<unsigned char>(pending_[pending_.size() - back]);
      const size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
      if (length > back)
        whole = pending_.size() - back;
      if (byte >= 0xC0 || byte < 0x80)
        break;
    }
    write(whole);
  }
  void end() { write(pending_.size()); }

 private:
  void write(size_t bytes) {
    std::fwrite(pending_.data(), 1, bytes, stdout);
    std::fflush(stdout);
    pending_.erase(0, bytes);
  }
  std::string pending_;
};

io::json as_json(const Options& options,
                 const RecurrentLM& model,
                 const io::Tokenizer* tokenizer,
                 size_t prompt_tokens,
                 const eval::Generated& generated,
                 int64_t position) {
  std::vector<int32_t> ids(generated.new_tokens.begin(), generated.new_tokens.end());
  return {{"schema", "stuffed.generate"},
          {"version", 1},
          {"run", describe(options.model, model)},
          {"prompt_tokens", prompt_tokens},
          {"new_tokens", generated.new_tokens},
          {"text", tokenizer ? io::json(tokenizer->decode(ids)) : io::json(nullptr)},
          {"stop_reason", generated.stop_reason},
          {"position_tokens", position}};
}

/// Reads the prompt and feeds it; what is wrong with it names the file it came from. Returns its
/// tokens.
size_t feed(const Options& options,
            const RecurrentLM& model,
            const Recurrence& rule,
            const io::Tokenizer* tokenizer,
            SavedState& saved) {
  const std::string& file = options.tokens.empty() ? options.prompt_file : options.tokens;
  try {
    const std::vector<int32_t> prompt = read_prompt(options, tokenizer);
    eval::feed_prompt(model, rule, prompt, options.model.segment, saved, [&](int64_t fed) {
      if (static_cast<int64_t>(prompt.size()) > options.model.segment)
        cli::print(stderr, "prompt: {} of {} tokens\n", fed, prompt.size());
    });
    return prompt.size();
  } catch (const Error& error) {
    if (file.empty() || std::string_view(error.what()).find(file) != std::string_view::npos)
      throw;
    throw Error(error.kind(), fmt::format("{}: {}", file, error.what()));
  }
}

/// Errors  Usage, Input or Output if the state would take the place of something else
void check_save_state(const Options& options) {
  io::OutputGuard guard = guard_inputs(options.model);
  guard.reads("--prompt-file", options.prompt_file);
  guard.reads("--tokens", options.tokens);
  guard.reads("--load-state", options.load_state);
  guard.writes("--save-state", options.save_state);
  check_state_place(options.save_state);
  io::make_folder_of(options.save_state);
}

void run(Options options, Context& context) {
  check(std::ranges::find(options.how.stop, "") == options.how.stop.end(), Error::Kind::Usage,
        "--stop '': every text contains it; give the text to stop at");
  if (!options.save_state.empty())
    check_save_state(options);
  const auto tokenizer = find_tokenizer(options);
  const auto model = context.models.open(options.model, tokenizer.get());
  const auto rule = open_rule(options.model, *model);
  context.feeding = {.segment_tokens = options.model.segment,
                     .state_bytes = model->initial_state(1).bytes()};
  std::vector<std::string> changes = options.model.mitigations;
  if (!options.model.gated_norm.empty())
    changes.push_back("gated_norm=" + options.model.gated_norm);
  const StateTag tag = {
      .model_hash = model->config().hash,
      .family = model->config().family,
      .dtype = options.model.dtype,
      .state_dtype = options.model.state_dtype,
      .mitigations = changes.empty() ? "none" : fmt::format("{}", fmt::join(changes, " "))};
  SavedState saved = options.load_state.empty()
                         ? SavedState{.state = model->initial_state(1), .last_hidden = {}}
                         : load_state(options.load_state, tag, *model);
  options.how.segment = options.model.segment;
  const size_t prompt_tokens = feed(options, *model, *rule, tokenizer.get(), saved);

  eval::SamplerOptions& sampler = options.how.sampler;
  for (const double x : {options.temperature.value_or(1), options.top_p.value_or(1)})
    check(!std::isnan(x), Error::Kind::Usage, "--temperature and --top-p take a number, not nan");
  sampler.greedy = !options.temperature && !options.top_k && !options.top_p;
  sampler.temperature = options.temperature.value_or(1);
  sampler.top_k = options.top_k.value_or(0);
  sampler.top_p = options.top_p.value_or(1);
  sampler.seed = options.model.seed;
  TextStream text;
  const auto show = [&](int64_t id, const std::string& bytes) {
    if (options.json)
      return;
    if (tokenizer)
      text.add(bytes);
    else
      cli::print(stdout, "{}\n", id);
  };
  const eval::Generated generated =
      eval::generate(*model, *rule, tokenizer.get(), options.how, saved, show);
  text.end();
  if (options.json)
    cli::print(
        stdout, "{}\n",
        as_json(options, *model, tokenizer.get(), prompt_tokens, generated, saved.state.position)
            .dump());
  else if (tokenizer)
    cli::print(stdout, "\n");
  if (!options.save_state.empty())
    save_state(options.save_state, saved, tag);
}

void add_prompt_options(CLI::App& app, Options& options) {
  const char* const group =
      "Prompt (one of --prompt, --prompt-file and --tokens; with --load-state it may be left out)";
  auto* text = app.add_option("--prompt", options.prompt, "The text to continue")
                   ->type_name("TEXT")
                   ->group(group);
  auto* file =
      app.add_option("--prompt-file", options.prompt_file, "A file with the text to continue")
          ->type_name("FILE")
          ->group(group)
          ->excludes(text);
  app.add_option("--tokens", options.tokens,
                 "safetensors file of token ids [documents, N]: continue row 0; needs no tokenizer")
      ->type_name("FILE")
      ->group(group)
      ->excludes(text)
      ->excludes(file);
  app.add_option("--tokens-key", options.tokens_key, "Name of the tensor in the --tokens file")
      ->capture_default_str()
      ->type_name("NAME")
      ->group(group);
  app.add_option("--load-state", options.load_state,
                 "Start from a saved state; the prompt, if any, comes after it")
      ->type_name("FILE")
      ->group(group);
}

void add_sampling_options(CLI::App& app, Options& options) {
  const char* const group = "Sampling (greedy unless one of these is given; seeded by --seed)";
  app.add_option("--temperature", options.temperature, "Divide the logits by X")
      ->check(number_between(1e-6, 1e6))
      ->type_name("X")
      ->group(group);
  app.add_option("--top-k", options.top_k, "Sample from the K most likely tokens")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30).description(""))
      ->type_name("K")
      ->group(group);
  app.add_option("--top-p", options.top_p,
                 "Sample from the fewest most likely tokens whose total probability reaches P")
      ->check(number_between(1e-9, 1))
      ->type_name("P")
      ->group(group);
}

}  // namespace

void add_generate(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "generate", "Continue a prompt; the state after a long prompt can be saved and loaded",
      "  stuffed generate --model DIR --prompt 'Once upon a time' --max-new-tokens 100\n"
      "  stuffed generate --model DIR --prompt-file book.txt --max-new-tokens 0 --save-state "
      "book.state\n"
      "  stuffed generate --model DIR --load-state book.state --prompt 'Who did it?' --temperature "
      "0.8\n");
  auto options = std::make_shared<Options>();
  add_model_options(*app, options->model);
  add_prompt_options(*app, *options);
  add_sampling_options(*app, *options);
  add_count(*app, "--max-new-tokens", options->how.max_new_tokens,
            "Maximum number of tokens to generate", 0)
      ->group("Output");
  app->add_option("--stop", options->how.stop,
                  "Stop once the generated text contains TEXT; repeatable")
      ->type_name("TEXT")
      ->group("Output");
  app->add_flag("--stop-eos", options->how.stop_eos, "Stop at the tokenizer's end-of-text token")
      ->group("Output");
  app->add_option("--save-state", options->save_state, "Write the state after the last new token")
      ->type_name("FILE")
      ->group("Output");
  app->add_flag("--json", options->json, "Print one JSON object instead of streamed text")
      ->group("Output");
  commands.push_back({.app = app, .run = [options](Context& context) { run(*options, context); }});
}

}  // namespace stuffed::cli
