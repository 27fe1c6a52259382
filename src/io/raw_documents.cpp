#include "raw_documents.h"

#include <fstream>
#include <limits>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/core/hash.h"
#include "stuffed/io/tensor_file.h"
#include "utf8.h"

namespace stuffed::io {

namespace {

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  check(file.good() && fs::is_regular_file(path), Error::Kind::Input,
        "{}: is not a file that can be read", path.string());
  std::string text((std::istreambuf_iterator<char>(file)), {});
  const size_t invalid = find_invalid_utf8(text);
  check(invalid == text.npos, Error::Kind::Input,
        "{}: byte {} does not belong to UTF-8; convert the file to UTF-8", path.string(), invalid);
  return text;
}

/// Follows a.b through objects, and through strings that hold JSON themselves.
std::string text_at(json value, const std::string& field, const std::string& where) {
  for (size_t begin = 0; begin <= field.size();) {
    const size_t dot = std::min(field.find('.', begin), field.size());
    const std::string key = field.substr(begin, dot - begin);
    if (value.is_string())
      value = parse_json(value.get<std::string>(), where);
    check(value.is_object() && value.contains(key), Error::Kind::Input,
          "{}: has no field '{}' (--field {})", where, key, field);
    value = json(value.at(key));
    begin = dot + 1;
  }
  check(value.is_string(), Error::Kind::Input, "{}: field '{}' is {}, expected text", where, field,
        value.type_name());
  return value.get<std::string>();
}

}  // namespace

RawDocuments text_documents(const SourceOptions& options,
                            std::shared_ptr<const Tokenizer> tokenizer,
                            json& identity) {
  identity["kind"] = "text";
  for (const fs::path& path : options.text)
    identity["sha256"].push_back(sha256_file(path));
  return [paths = options.text, tokenizer, next = size_t{0}]() mutable -> std::optional<Document> {
    if (next == paths.size())
      return {};
    const fs::path& path = paths[next++];
    return Document{.name = path.filename().string(),
                    .tokens = tokenizer->encode(read_text(path)),
                    .boundaries = {}};
  };
}

RawDocuments jsonl_documents(const SourceOptions& options,
                             std::shared_ptr<const Tokenizer> tokenizer,
                             json& identity) {
  identity["kind"] = "jsonl";
  identity["sha256"] = sha256_file(options.jsonl);
  identity["field"] = options.field;
  auto file = std::make_shared<std::ifstream>(options.jsonl, std::ios::binary);
  return [options, tokenizer, file, number = int64_t{0}]() mutable -> std::optional<Document> {
    for (std::string line; std::getline(*file, line);) {
      ++number;
      if (line.find_first_not_of(" \t\r") == line.npos)
        continue;
      const std::string name = fmt::format("{}:{}", options.jsonl.filename().string(), number);
      const std::string where = fmt::format("{}: line {}", options.jsonl.string(), number);
      return Document{
          .name = name,
          .tokens = tokenizer->encode(text_at(parse_json(line, where), options.field, where)),
          .boundaries = {}};
    }
    return {};
  };
}

RawDocuments token_documents(const SourceOptions& options, json& identity) {
  const TensorFile file = TensorFile::open(options.tokens);
  const std::string where = options.tokens.string();
  check(file.has(options.tokens_key), Error::Kind::Input,
        "{}: has no tensor '{}'; name it by --tokens-key", where, options.tokens_key);
  Tensor tokens = file.load(options.tokens_key);
  check(at::isIntegralType(tokens.scalar_type(), false) && (tokens.dim() == 1 || tokens.dim() == 2),
        Error::Kind::Input,
        "{}: tensor '{}' is {} of {} axes, expected integers [documents, tokens]", where,
        options.tokens_key, toString(tokens.scalar_type()), tokens.dim());
  identity["kind"] = "tokens";
  identity["sha256"] = sha256_file(options.tokens);
  identity["key"] = options.tokens_key;
  if (tokens.dim() == 1)
    tokens = tokens.unsqueeze(0);
  return
      [file, tokens, path = options.tokens, row = int64_t{0}]() mutable -> std::optional<Document> {
        if (row == tokens.size(0))
          return {};
        const Tensor ids = tokens[row].to(at::kLong).contiguous();
        Document document{.name = fmt::format("{}[{}]", path.filename().string(), row++),
                          .tokens = {},
                          .boundaries = {}};
        for (const int64_t id :
             std::span(ids.const_data_ptr<int64_t>(), static_cast<size_t>(ids.numel()))) {
          check(id >= 0 && id <= std::numeric_limits<int32_t>::max(), Error::Kind::Input,
                "{}: token {} of {} is {}, not a token id", path.string(), document.tokens.size(),
                document.name, id);
          document.tokens.push_back(static_cast<int32_t>(id));
        }
        return document;
      };
}

RawDocuments prompt_document(const SourceOptions& options,
                             std::shared_ptr<const Tokenizer> tokenizer,
                             json& identity) {
  check(options.length > 0, Error::Kind::Usage, "--prompt repeats without end: give --length");
  identity["kind"] = "prompt";
  identity["name"] = options.prompt;
  std::string once;
  if (options.prompt == "newlines")
    once.assign(300000, '\n');
  for (int i = 0; options.prompt == "capital" && i < 2000; ++i)
    once +=
        "The capital of China is Beijing. The capital of USA is Washington. The capital of Norway "
        "is Oslo. ";
  check(!once.empty(), Error::Kind::Usage, "--prompt: '{}' is not known; newlines and capital are",
        options.prompt);
  return [options, tokenizer, once, given = false]() mutable -> std::optional<Document> {
    if (std::exchange(given, true))
      return {};
    Document document{.name = options.prompt, .tokens = tokenizer->encode(once), .boundaries = {}};
    for (std::string text = once; static_cast<int64_t>(document.tokens.size()) <= options.length;) {
      check(!document.tokens.empty(), Error::Kind::Internal, "--prompt {} has no tokens",
            options.prompt);
      const int64_t have = static_cast<int64_t>(text.size() / once.size());
      const int64_t times =
          have +
          std::max<int64_t>(
              1, have * (options.length + 1) / static_cast<int64_t>(document.tokens.size()) - have);
      for (int64_t i = have; i < times; ++i)
        text += once;
      document.tokens = tokenizer->encode(text);
    }
    return document;
  };
}

}  // namespace stuffed::io
