// Prompts and answers of a file, as RULER and BABILong publish theirs, or in a plain form.
#include <algorithm>
#include <fstream>

#include "samples.h"
#include "stuffed/core/error.h"
#include "stuffed/io/record_fields.h"
#include "stuffed/io/regular_file.h"

namespace stuffed::eval {

namespace {

using io::json;

struct Question {
  std::string prompt;
  std::vector<std::string> expected;
  int64_t length_tokens = 0;  // 0: the file does not say
};

/// A string or an array of them.
std::vector<std::string> read_strings(const json& line, const char* field) {
  const json& value = line.at(field);
  auto strings = value.is_string() ? std::vector{value.get<std::string>()}
                                   : value.get<std::vector<std::string>>();
  const bool is_good = !strings.empty() && std::ranges::none_of(strings, &std::string::empty);
  check(is_good, Error::Kind::Input, "{} holds no answer, or an empty one", field);
  return strings;
}

int64_t read_length(const json& line) {
  return line.contains("length") ? io::read_integer(line, "length", 1) : 0;
}

/// What newer files end the prompt with stands by itself.
Question read_ruler(const json& line) {
  std::string prompt = io::read_text(line, "input");
  if (line.contains("answer_prefix"))
    prompt += io::read_text(line, "answer_prefix");
  return {std::move(prompt), read_strings(line, "outputs"), read_length(line)};
}

/// A target of several things joins them by commas; directions ("n,e") are one.
std::vector<std::string> targets_of(const std::string& target) {
  constexpr size_t kDirections = 3;
  std::vector<std::string> targets;
  for (size_t begin = 0; begin <= target.size();) {
    const size_t comma = target.size() > kDirections ? target.find(',', begin) : target.npos;
    const size_t end = std::min(comma, target.size());
    if (end > begin)
      targets.push_back(target.substr(begin, end - begin));
    begin = end + 1;
  }
  return targets;
}

Question read_babilong(const json& line) {
  const auto target = read_strings(line, "target");
  return {fmt::format("{}\n\nQuestion: {}\nAnswer:", io::read_text(line, "input"),
                      io::read_text(line, "question")),
          targets_of(target.front()), read_length(line)};
}

Question read_plain(const json& line) {
  return {io::read_text(line, "prompt"), read_strings(line, "answers"), read_length(line)};
}

/// Errors  Input, naming file and line
Question read_question(const std::string& text,
                       const std::string& format,
                       const std::string& where) {
  const auto refuse = [&](std::string_view why) {
    fail(Error::Kind::Input, "{}: is no sample of --format {}: {}", where, format, why);
  };
  try {
    const json line = json::parse(text);
    Question question = format == "ruler"      ? read_ruler(line)
                        : format == "babilong" ? read_babilong(line)
                                               : read_plain(line);
    check(!question.prompt.empty() && !question.expected.empty(), Error::Kind::Input,
          "its prompt or its answer is empty");
    return question;
  } catch (const json::exception& error) {
    refuse(io::reason_of(error));
  } catch (const Error& error) {
    refuse(error.what());
  }
  return {};  // not reached
}

class JsonlReader {
 public:
  JsonlReader(const io::Tokenizer& tokenizer, const RetrievalOptions& options, Samples& samples)
      : tokenizer_(tokenizer), options_(options), samples_(samples) {}

  void read(const std::filesystem::path& path) {
    io::check_regular_file(path);
    std::ifstream file(path);
    std::string text;
    for (int64_t number = 1; std::getline(file, text); ++number)
      if (text.find_first_not_of(" \t\r") != text.npos)
        add(text, fmt::format("{}: line {}", path.string(), number));
  }

 private:
  void add(const std::string& text, const std::string& where) {
    Question question = read_question(text, options_.format, where);
    if (!takes(question, where))
      return;
    RetrievalTrial one{.length_tokens = question.length_tokens};
    int64_t& count = samples_.counts[one.length_tokens];
    if (options_.trials > 0 && count == options_.trials)
      return;
    one.trial = one.repetition = count++;
    const std::vector<int32_t> tokens = tokenizer_.encode(question.prompt);
    one.prompt_tokens = std::ssize(tokens);
    std::string answer;
    for (const std::string& expected : question.expected)
      answer += (answer.empty() ? " " : ", ") + expected;
    one.answer = continuation(tokenizer_, question.prompt, answer);
    one.is_cut = any_is_cut(tokenizer_, question.expected, options_.max_new_tokens);
    one.expected = std::move(question.expected);
    samples_.prompts.push_back({{samples_.blocks.add(tokens), 1}});
    samples_.trials.push_back(std::move(one));
  }

  /// Whether the sample is of a length that is asked for; where the file names none, it is of the
  /// only one there is.
  bool takes(Question& question, const std::string& where) const {
    const std::vector<int64_t>& lengths = options_.lengths_tokens;
    if (question.length_tokens == 0) {
      check(lengths.size() == 1, Error::Kind::Usage,
            "{}: has no length; give the one of all such samples (--lengths 32K)", where);
      question.length_tokens = lengths.front();
    }
    return lengths.empty() || std::ranges::find(lengths, question.length_tokens) != lengths.end();
  }

  const io::Tokenizer& tokenizer_;
  const RetrievalOptions& options_;
  Samples& samples_;
};

}  // namespace

void add_jsonl(const io::Tokenizer& tokenizer, const RetrievalOptions& options, Samples& samples) {
  check(options.depths == 1, Error::Kind::Usage,
        "--depths: nobody knows where the answers of a file are; leave it out");
  JsonlReader reader(tokenizer, options, samples);
  for (const auto& path : options.jsonl)
    reader.read(path);
  check(!samples.trials.empty(), Error::Kind::Usage, "--jsonl: holds no sample{}",
        options.lengths_tokens.empty() ? "" : " of the lengths asked for");
}

}  // namespace stuffed::eval
