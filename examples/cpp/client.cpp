// A client of the nuclei service: the result of one frame, or those of a stream of frames.
#include <grpcpp/grpcpp.h>
#include <zstd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <future>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "nuclei/v1/segmentation.grpc.pb.h"

namespace pb = nuclei::v1;
using Options = std::map<std::string, std::string>;

constexpr auto kUsage = R"(nuclei-client segment [options] FILE
nuclei-client stream [options] FILE...
  --address HOST:PORT  of the gateway's gRPC server
  --token TOKEN        what a gateway with NUCLEI_TOKEN asks for
  --model NAME         instead of the server's default model
  --timeout SECONDS    time for each frame
  --overflow POLICY    block, drop_oldest or latest_only: when frames come too fast for the server
)";

const std::map<std::string, pb::OverflowPolicy> kOverflowPolicies = {
    {"block", pb::OVERFLOW_POLICY_BLOCK},
    {"drop_oldest", pb::OVERFLOW_POLICY_DROP_OLDEST},
    {"latest_only", pb::OVERFLOW_POLICY_LATEST_ONLY},
};

// The bytes of a PNG, JPEG or TIFF file. (A camera's pixels go into `raw` instead of `encoded`.)
std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string bytes(std::istreambuf_iterator<char>(file), {});
    if (!file) throw std::runtime_error(path + " cannot be read");
    return bytes;
}

std::chrono::milliseconds timeout(const Options& options) {
    return std::chrono::milliseconds(std::llround(std::stod(options.at("--timeout")) * 1e3));
}

std::unique_ptr<pb::Segmentation::Stub> connect(const Options& options) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);                // a reply may exceed gRPC's 4 MB
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);  // notice a server that vanished
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);       // the address is the gateway's own
    return pb::Segmentation::NewStub(grpc::CreateCustomChannel(
        options.at("--address"), grpc::InsecureChannelCredentials(), arguments));
}

void authorize(grpc::ClientContext& context, const Options& options) {
    const auto& token = options.at("--token");
    if (!token.empty()) context.AddMetadata("authorization", "Bearer " + token);
}

// Throws "ModelNotFound: no model ..." for a failed call: the class of the error is in the trailing
// metadata. Without it the failure is one of gRPC itself, such as a server that does not answer.
void require_ok(const grpc::Status& status, const grpc::ClientContext& context) {
    if (status.ok()) return;
    std::string name = "gRPC status " + std::to_string(status.error_code());
    const auto& trailers = context.GetServerTrailingMetadata();
    if (const auto found = trailers.find("nuclei-error"); found != trailers.end()) {
        name.assign(found->second.data(), found->second.size());
    }
    throw std::runtime_error(name + ": " + status.error_message());
}

// Row-major uint32 [height, width]: 0 is background, 1 to count are the nuclei.
std::vector<std::uint32_t> decode(const pb::LabelImage& image) {
    static_assert(std::endian::native == std::endian::little);
    if (image.encoding() != pb::LabelImage::ENCODING_ZSTD_UINT32)
        throw std::runtime_error("the encoding of the label image is not known");
    std::vector<std::uint32_t> labels(std::size_t{image.height()} * image.width());
    const auto n_bytes = labels.size() * sizeof(labels[0]);
    const auto& data = image.data();
    if (ZSTD_decompress(labels.data(), n_bytes, data.data(), data.size()) != n_bytes)
        throw std::runtime_error("the label image is damaged");
    return labels;
}

// What was guessed or is doubtful about the frame.
void warn(const pb::SegmentResponse& reply) {
    for (const auto& warning : reply.warnings()) std::cerr << "warning: " << warning << '\n';
}

void segment(pb::Segmentation::Stub& stub, const Options& options, const std::string& path) {
    pb::SegmentRequest request;
    request.mutable_frame()->set_encoded(read_file(path));
    request.set_model(options.at("--model"));
    request.add_outputs(pb::OUTPUT_CENTROIDS);
    request.add_outputs(pb::OUTPUT_LABELS);

    grpc::ClientContext context;
    authorize(context, options);
    context.set_deadline(std::chrono::system_clock::now() + timeout(options));
    pb::SegmentResponse reply;
    require_ok(stub.Segment(&context, request, &reply), context);

    warn(reply);
    std::cout << reply.model() << " version " << reply.model_version() << ": " << reply.count()
              << " nuclei\n";
    for (int i = 0; i < std::min(3, reply.nuclei().centroid_x_px_size()); ++i)
        std::cout << "nucleus " << reply.nuclei().label(i) << " at x "
                  << reply.nuclei().centroid_x_px(i) << ", y " << reply.nuclei().centroid_y_px(i)
                  << '\n';
    const auto labels = decode(reply.labels());
    std::set<std::uint32_t> distinct(labels.begin(), labels.end());
    distinct.erase(0);
    std::cout << "label image " << reply.labels().height() << " x " << reply.labels().width()
              << ": " << distinct.size() << " labels\n";
}

// Whether the frame was segmented, or skipped as the overflow policy says.
bool print(const pb::SegmentStreamResponse& answer) {
    std::cout << "frame " << answer.sequence() << ": ";
    switch (answer.outcome_case()) {
        case pb::SegmentStreamResponse::kResult:
            warn(answer.result());
            std::cout << answer.result().count() << " nuclei" << std::endl;
            return true;
        case pb::SegmentStreamResponse::kSkipped:
            std::cout << "skipped, " << answer.skipped().reason() << std::endl;
            return true;
        default:
            std::cout << answer.error().name() << ": " << answer.error().message() << std::endl;
            return false;
    }
}

bool stream(pb::Segmentation::Stub& stub, const Options& options,
            const std::vector<std::string>& paths) {
    pb::SegmentStreamRequest settings;
    settings.mutable_settings()->set_overflow(kOverflowPolicies.at(options.at("--overflow")));

    grpc::ClientContext context;
    authorize(context, options);
    const auto call = stub.SegmentStream(&context);
    // Frames are sent in a thread of their own: answers arrive while later frames are on their way.
    auto sending = std::async(std::launch::async, [&] {
        try {
            bool open = call->Write(settings);
            for (std::size_t i = 0; open && i < paths.size(); ++i) {
                pb::SegmentStreamRequest message;
                auto& frame = *message.mutable_frame();
                frame.set_timeout_ms(static_cast<std::uint32_t>(timeout(options).count()));
                frame.mutable_request()->set_model(options.at("--model"));
                frame.mutable_request()->add_outputs(pb::OUTPUT_COUNT);
                frame.mutable_request()->mutable_frame()->set_encoded(read_file(paths[i]));
                open = call->Write(message);
            }
            call->WritesDone();
        } catch (...) {
            context.TryCancel();  // ends the reading too
            throw;
        }
    });
    bool complete = true;
    for (pb::SegmentStreamResponse answer; call->Read(&answer);) complete &= print(answer);
    sending.get();
    require_ok(call->Finish(), context);
    return complete;
}

int run(const std::vector<std::string>& arguments) {
    Options options = {{"--address", "localhost:50051"},
                       {"--token", ""},
                       {"--model", ""},
                       {"--timeout", "30"},
                       {"--overflow", "block"}};
    std::vector<std::string> words;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        if (options.contains(arguments[i])) {
            options[arguments[i]] = arguments.at(i + 1);
            ++i;
        } else {
            words.push_back(arguments[i]);
        }
    }
    const auto command = words.at(0);
    const std::vector<std::string> paths(words.begin() + 1, words.end());
    const auto stub = connect(options);
    if (command == "segment") {
        segment(*stub, options, paths.at(0));
        return 0;
    }
    if (command == "stream" && !paths.empty()) return stream(*stub, options, paths) ? 0 : 1;
    throw std::invalid_argument(command);
}

int main(int argc, char** argv) {
    try {
        return run({argv + 1, argv + argc});
    } catch (const std::logic_error&) {  // of at(), stod() and run()
        std::cerr << kUsage;
        return 2;
    } catch (const std::exception& error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
